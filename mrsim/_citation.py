"""What to cite: the papers on which the parts of mrsim stand, as text and BibTeX."""

from typing import NamedTuple


class Paper(NamedTuple):
    """A paper, in the words of BibTeX."""

    key: str
    author: str
    title: str
    journal: str
    volume: str
    pages: str
    year: str
    doi: str


_BLOCH = Paper(
    key="Bloch1946",
    author="Bloch, Felix",
    title="Nuclear induction",
    journal="Physical Review",
    volume="70",
    pages="460--474",
    year="1946",
    doi="10.1103/PhysRev.70.460",
)
_HENNIG = Paper(
    key="Hennig1988",
    author="Hennig, Jürgen",
    title="Multiecho imaging sequences with low refocusing flip angles",
    journal="Journal of Magnetic Resonance",
    volume="78",
    pages="397--407",
    year="1988",
    doi="10.1016/0022-2364(88)90128-X",
)
_WEIGEL = Paper(
    key="Weigel2015",
    author="Weigel, Matthias",
    title="Extended phase graphs: Dephasing, RF pulses, and echoes - pure and simple",
    journal="Journal of Magnetic Resonance Imaging",
    volume="41",
    pages="266--295",
    year="2015",
    doi="10.1002/jmri.24619",
)
_MALIK = Paper(
    key="Malik2018",
    author="Malik, Shaihan J. and Teixeira, Rui Pedro A. G. and Hajnal, Joseph V.",
    title="Extended phase graph formalism for systems with magnetization transfer and"
    " exchange",
    journal="Magnetic Resonance in Medicine",
    volume="80",
    pages="767--779",
    year="2018",
    doi="10.1002/mrm.27040",
)
_TORREY = Paper(
    key="Torrey1956",
    author="Torrey, Henry C.",
    title="Bloch equations with diffusion terms",
    journal="Physical Review",
    volume="104",
    pages="563--565",
    year="1956",
    doi="10.1103/PhysRev.104.563",
)
_CALLAGHAN = Paper(
    key="Callaghan1997",
    author="Callaghan, Paul T.",
    title="A simple matrix formalism for spin echo analysis of restricted diffusion"
    " under generalized gradient waveforms",
    journal="Journal of Magnetic Resonance",
    volume="129",
    pages="74--84",
    year="1997",
    doi="10.1006/jmre.1997.1233",
)
_LI = Paper(
    key="Li2019",
    author="Li, Jing-Rebecca and others",
    title="SpinDoctor: A MATLAB toolbox for diffusion MRI simulation",
    journal="NeuroImage",
    volume="202",
    pages="116120",
    year="2019",
    doi="10.1016/j.neuroimage.2019.116120",
)
_TOURNIER = Paper(
    key="Tournier2019",
    author="Tournier, J-Donald and others",
    title="MRtrix3: A fast, flexible and open software framework for medical image"
    " processing and visualisation",
    journal="NeuroImage",
    volume="202",
    pages="116137",
    year="2019",
    doi="10.1016/j.neuroimage.2019.116137",
)
_CSD = Paper(
    key="Tournier2007",
    author="Tournier, J-Donald and Calamante, Fernando and Connelly, Alan",
    title="Robust determination of the fibre orientation distribution in diffusion MRI:"
    " Non-negativity constrained super-resolved spherical deconvolution",
    journal="NeuroImage",
    volume="35",
    pages="1459--1472",
    year="2007",
    doi="10.1016/j.neuroimage.2007.02.016",
)
_MSMT = Paper(
    key="Jeurissen2014",
    author="Jeurissen, Ben and Tournier, J-Donald and Dhollander, Thijs and Connelly,"
    " Alan and Sijbers, Jan",
    title="Multi-tissue constrained spherical deconvolution for improved analysis of"
    " multi-shell diffusion MRI data",
    journal="NeuroImage",
    volume="103",
    pages="411--426",
    year="2014",
    doi="10.1016/j.neuroimage.2014.07.061",
)
_LE_BIHAN = Paper(
    key="LeBihan1988",
    author="Le Bihan, Denis and Breton, Eric and Lallemand, Denis and Aubin,"
    " Marie-Laure and Vignaud, Jacqueline and Laval-Jeantet, Maurice",
    title="Separation of diffusion and perfusion in intravoxel incoherent motion MR"
    " imaging",
    journal="Radiology",
    volume="168",
    pages="497--505",
    year="1988",
    doi="10.1148/radiology.168.2.3393671",
)
_LEE = Paper(
    key="Lee2019",
    author="Lee, Philip K. and Watkins, Lauren E. and Anderson, Timothy I. and"
    " Buonincontri, Guido and Hargreaves, Brian A.",
    title="Flexible and efficient optimization of quantitative sequences using"
    " automatic differentiation of Bloch simulations",
    journal="Magnetic Resonance in Medicine",
    volume="82",
    pages="1438--1451",
    year="2019",
    doi="10.1002/mrm.27832",
)
_GOLUB = Paper(
    key="Golub1973",
    author="Golub, Gene H. and Pereyra, Victor",
    title="The differentiation of pseudo-inverses and nonlinear least squares problems"
    " whose variables separate",
    journal="SIAM Journal on Numerical Analysis",
    volume="10",
    pages="413--432",
    year="1973",
    doi="10.1137/0710036",
)
_MA = Paper(
    key="Ma2013",
    author="Ma, Dan and Gulani, Vikas and Seiberlich, Nicole and Liu, Kecheng and"
    " Sunshine, Jeffrey L. and Duerk, Jeffrey L. and Griswold, Mark A.",
    title="Magnetic resonance fingerprinting",
    journal="Nature",
    volume="495",
    pages="187--192",
    year="2013",
    doi="10.1038/nature11971",
)
_MCGIVNEY = Paper(
    key="McGivney2014",
    author="McGivney, Debra F. and Pierre, Eric and Ma, Dan and Jiang, Yun and"
    " Saybasili, Haris and Gulani, Vikas and Griswold, Mark A.",
    title="SVD compression for magnetic resonance fingerprinting in the time domain",
    journal="IEEE Transactions on Medical Imaging",
    volume="33",
    pages="2311--2322",
    year="2014",
    doi="10.1109/TMI.2014.2337321",
)
_LAYTON = Paper(
    key="Layton2017",
    author="Layton, Kelvin J. and Kroboth, Stefan and Jia, Feng and Littin, Sebastian"
    " and Yu, Huijun and Leupold, Jochen and Nielsen, Jon-Fredrik and Stöcker, Tony and"
    " Zaitsev, Maxim",
    title="Pulseq: A rapid and hardware-independent pulse sequence prototyping"
    " framework",
    journal="Magnetic Resonance in Medicine",
    volume="77",
    pages="1544--1552",
    year="2017",
    doi="10.1002/mrm.26235",
)

_PAPERS = {
    "epg": (_HENNIG, _WEIGEL, _MALIK),
    "bloch": (_BLOCH,),
    "torrey": (_TORREY, _CALLAGHAN, _LI),
    "tract": (_TOURNIER, _CSD, _MSMT),
    "ivim": (_LE_BIHAN,),
    "crlb": (_LEE,),
    "design": (_LEE,),
    "fit": (_GOLUB,),
    "match": (_MA, _MCGIVNEY),
    "pulseq": (_LAYTON,),
}


def citation(*names: str) -> str:
    """Return what to cite for parts of mrsim: a line for each paper, then BibTeX.

    Args:
        *names: packages and functions, such as ``"epg"`` or ``"crlb"``; without any,
            all that there are.

    Returns:
        Text; each paper stands in it once.

    Raises:
        ValueError: a name is unknown; the message lists the known ones.

    >>> import mrsim
    >>> print(mrsim.citation("ivim").splitlines()[0])
    Le Bihan 1988, Radiology 168:497, doi:10.1148/radiology.168.2.3393671
    """
    unknown = [n for n in names if n not in _PAPERS]
    if unknown:
        raise ValueError(
            f"mrsim.citation: {unknown[0]!r} is unknown; give some of"
            f" {', '.join(_PAPERS)}"
        )
    chosen = dict.fromkeys(paper for n in names or _PAPERS for paper in _PAPERS[n])
    return "\n\n".join(["\n".join(map(_line, chosen)), *map(_bibtex, chosen)])


def _line(paper: Paper) -> str:
    first = paper.author.partition(",")[0]
    page = paper.pages.partition("--")[0]
    place = f"{paper.journal} {paper.volume}:{page}"
    return f"{first} {paper.year}, {place}, doi:{paper.doi}"


def _bibtex(paper: Paper) -> str:
    key, *values = paper
    fields = zip(Paper._fields[1:], values, strict=True)
    body = ",\n".join(f"  {name} = {{{value}}}" for name, value in fields)
    return f"@article{{{key},\n{body}\n}}"
