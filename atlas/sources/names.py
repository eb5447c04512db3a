"""What the name and place of a volume in a plain folder say: whose it is, of which visit and which contrast.

Before the word of the contrast stands the person, or the visit where a folder is the person; behind it may
stand the visit and what was done to the image. A file with another word there is left out, and the reason
names the word: it may be a segmentation, a second version of an image, or anything.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from pathlib import Path

from atlas.sources.scan import stem

CONTRASTS = {
    **dict.fromkeys(("t1", "t1w", "mprage", "spgr"), "T1"),
    **dict.fromkeys(("t2", "t2w"), "T2"),
    **dict.fromkeys(("pd", "pdw"), "PD"),
    **dict.fromkeys(("flair", "t2flair"), "FLAIR"),
}
SAID = re.compile(rf"(?i)(?<![^\W_])({'|'.join(CONTRASTS)})(?![^\W_])")
# what was done to an image; it says nothing of whose it is
PROCESSED = re.compile(
    r"defaced?|refaced|anon|brain|(skull)?strip(ped)?|skullstripped|ss|bet|n4\w*|biascorr\w*|corrected|denoised"
    r"|restored?|acpc|preproc\w*|norm\w*|raw|orig|mri|scans?|images?|anat|iso|hires|3d|\d+mm|[137]t"
)
VISIT = re.compile(
    r"(visit|ses|session|tp|timepoint|time|wave|month|year|week|day|m|y|v|fu|followup|run)\d*"
    r"|bl|baseline|\d\d?|(19|20)\d{6}"
)
# no plain image of a head, one after a contrast agent, or one that is warped
OTHER = re.compile(
    r"\w*seg(mentation)?s?|\w*mask|pve\w*|prob\w*|labels?|\w*parc\w*|wm|gm|csf|\w*lesions?|roi|maps?|t[12]map"
    r"|gd|gad\w*|post|postcontrast|contrast|ce|star|t2s|t2star|swi|dwi|adc|bold|warp\w*|jac\w*|mni\w*|std"
    r"|standard|template|atlas"
)


@dataclass(frozen=True)
class Named:
    """What a name says, "" for what it does not. reason: why the file cannot be used, "" if it can."""

    subject: str
    session: str
    modality: str
    reason: str


def read_name(place: Path) -> Named:
    """What the place of a volume below the data set's folder says."""
    name, folders = stem(place), [part for part in place.parts[:-1] if _own(part)]
    said = list(SAID.finditer(name))
    kinds = {CONTRASTS[match[0].lower()] for match in said}
    kinds -= {"T2"} if "FLAIR" in kinds else set()  # T2_FLAIR
    modality = next(iter(kinds), "") or _of_folders(place)
    before, behind = (name[: said[0].start()], name[said[0].end() :]) if said else (name, "")
    own = _own(before)
    odd = [word for part in folders[1:] if SAID.search(part) for word in _odd(part)]
    if folders:
        subject = _own(folders[0])
        sessions = [_own(part) for part in folders[1:]] + ([own] if own != subject else [])
    else:
        subject, sessions = own or _own(behind), []
        behind = behind if own else ""  # T1_anna
    odd += _odd(behind)
    sessions += [word for word in _words(behind) if VISIT.fullmatch(word)]
    other = [word for part in (*folders[1:], name) for word in _words(part) if OTHER.fullmatch(word)]
    reason = ""
    if other:
        reason = f"{other[0]!r} in its name: a label map, or an image of another kind"
    elif len(kinds) > 1:
        reason = f"its name says both {' and '.join(sorted(kinds))}; give a table with a column modality"
    elif odd:
        reason = f"{odd[0]!r} in its name is not understood; rename it, or name it in a table (column file)"
    return Named(subject, "_".join(part for part in sessions if part), modality, reason)


def safe(name: str) -> str:
    """A name that can be part of a file name: letters of any alphabet, digits, - and _."""
    return re.sub(r"(?:[^\w-]|_)+", "_", unicodedata.normalize("NFC", name)).strip("_-")


def is_visit(session: str, subject: str) -> bool:
    """Whether a session is named as visits are: "visit2", "anna_20190304"."""
    return all(VISIT.fullmatch(word) for word in _words(session.replace(subject, " ")))


def _own(name: str) -> str:
    """A name without the words of contrast and processing: the person or visit; "" if nothing is left."""
    rest = SAID.sub(" ", name)
    return safe(re.sub(rf"(?i)(?<![^\W_])({PROCESSED.pattern})(?![^\W_])", " ", rest))


def _words(name: str) -> list[str]:
    return [word for word in re.split(r"[\W_]+", name.lower()) if word]


def _odd(name: str) -> list[str]:
    """The words that are neither contrast nor processing nor a visit."""
    return [word for word in _words(_own(name)) if not VISIT.fullmatch(word)]


def _of_folders(place: Path) -> str:
    """The contrast that the nearest folder says."""
    said = [SAID.search(part) for part in place.parts[-2::-1]]
    return next((CONTRASTS[match[0].lower()] for match in said if match), "")
