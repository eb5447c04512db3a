"""Data sets as lists of scans: each adapter knows how one data set is laid out and what its table says.

    ixi         IXI012-HH-1211-T1.nii.gz and IXI.xls or IXI.csv
    bids        participants.tsv, sub-*/[ses-*/]anat/*_{T1w,T2w,PDw,FLAIR}.nii.gz
    simulated   the same, with true labels
    oasis1      disc*/OAS1_0001_MR1/..., Analyze, oasis_cross-sectional.csv
    oasis2      OAS2_RAW_PART*/OAS2_0001_MR1/RAW/mpr-1.nifti.img, oasis_longitudinal.csv
    oasis3      OAS30001_MR_d0129/anat*/... or sub-OAS30001/ses-d0129/anat/..., tables of CDR and demographics
    hcp         100307/T1w/T1w_acpc_dc_restore_brain.nii.gz, unrestricted_*.csv
    folder      any volumes, with or without a table

Who counts as healthy is in health.RULES. Nothing is dropped silently: the second list names every person,
file or fact left out, with the reason; only further repeats of the same OASIS scan are not named one by one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from atlas.errors import SourceError
from atlas.sources.bids import bids_scans, simulated_scans
from atlas.sources.folder import folder_scans
from atlas.sources.hcp import hcp_scans
from atlas.sources.health import RULES, counts_as_healthy, select
from atlas.sources.ixi import ixi_scans
from atlas.sources.oasis1 import oasis1_scans
from atlas.sources.oasis2 import oasis2_scans
from atlas.sources.oasis3 import oasis3_scans
from atlas.sources.scan import Adapter, Notes, Scan, load_mask, note

__all__ = ["RULES", "SOURCES", "Scan", "counts_as_healthy", "find_scans", "load_mask"]

SOURCES: dict[str, Adapter] = {
    "ixi": ixi_scans,
    "bids": bids_scans,
    "simulated": simulated_scans,
    "oasis1": oasis1_scans,
    "oasis2": oasis2_scans,
    "oasis3": oasis3_scans,
    "hcp": hcp_scans,
    "folder": folder_scans,
}

SHARED = "the mask of several scans; lay masks into folders as the scans lie, or name them after the scans"
GONE = "a link to a file that is not here; fetch it first (`datalad get`, `git annex get`)"


def _unusable(scans: Sequence[Scan]) -> Notes:
    """Scans whose file is not here, and those that would share one mask."""
    users = Counter(scan.mask for scan in scans)
    gone = [note(scan.subject, scan.path, GONE) for scan in scans if not scan.path.exists()]
    shared = [scan for scan in scans if scan.mask is not None and users[scan.mask] > 1]
    return gone + [note(scan.subject, scan.path, f"{scan.mask}: {SHARED}") for scan in shared]


def find_scans(
    source: str, folder: Path, *, masks: Path | None = None, keep: Sequence[str] = ()
) -> tuple[list[Scan], Notes]:
    """The scans of a data set, sorted, and what was left out: {subject, path, reason, kept}.

    kept is true when the scan itself stays and only a fact about it was dropped. masks: a folder of label
    maps `<name of the scan>_*.nii.gz`, brain where above 0. keep: who stays besides those that are healthy
    by the data set's rule, see health.select. Raises SourceError for an unknown source, a folder or table
    that is missing or laid out differently, a value of keep that nobody has, and when no scan is left.
    """
    folder = Path(folder)
    if source not in SOURCES:
        raise SourceError(f"unknown source {source!r}; possible: {', '.join(SOURCES)}")
    for place in (folder, masks):
        if place is not None and not Path(place).is_dir():
            raise SourceError(f"{place}: no such folder; give the folder that holds the data set")
    scans, left_out = SOURCES[source](folder, None if masks is None else Path(masks))
    if not scans:
        gone = [row["reason"] for row in left_out if not row["kept"]]
        reason = f" (first of {len(gone)} left out: {gone[0]})" if gone else ""
        raise SourceError(f"{folder}: no scan laid out as {source!r} distributes them{reason}")
    first, left_out = scans[0].path, left_out + _unusable(scans)
    unusable = {row["path"] for row in left_out if not row["kept"]}
    scans = [scan for scan in scans if str(scan.path) not in unusable]
    if not scans:
        raise SourceError(f"{first}: {left_out[-1]['reason']}; no scan of {folder} can be used")
    healthy, others = select(scans, source, keep)
    if not healthy:
        raise SourceError(
            f"{folder}: none of {len(scans)} scans is of a healthy person ({RULES[source]}); "
            "name who else is to stay with keep"
        )
    return sorted(healthy, key=lambda scan: (scan.subject, scan.session, scan.modality)), left_out + others
