"""Names that systems, network drives and tools leave behind: neither images nor classes.

Hidden names (a leading dot) count as clutter too, which covers ``.DS_Store``, ``._*``, ``.git``,
``.snapshot``, ``.Trash-1000``, ``.nfs*``, ``.ipynb_checkpoints`` and their like. Words that could
name a class (``snapshot``, ``recycle``, ``trash``) are left out on purpose: to ignore a class
would move the labels of those after it.
"""

from __future__ import annotations

CLUTTER = frozenset(
    name.lower().encode()
    for names in (
        # Windows
        ("$RECYCLE.BIN", "RECYCLER", "RECYCLED", "System Volume Information", "$Extend"),
        ("Thumbs.db", "ehthumbs.db", "ehthumbs_vista.db", "desktop.ini", "WPSettings.dat"),
        ("IndexerVolumeGuid", "$WINDOWS.~BT", "$WINDOWS.~WS", "Config.Msi", "msdownld.tmp"),
        tuple(f"FOUND.{number:03}" for number in range(1000)),  # chkdsk
        # macOS
        ("__MACOSX", "Icon\r", "Network Trash Folder", "Temporary Items", "Desktop DB"),
        ("Desktop DF", "TheVolumeSettingsFolder", "Backups.backupdb"),
        # Linux and network file systems
        ("lost+found", "~snapshot", "aquota.user", "aquota.group"),
        # Synology, TerraMaster
        ("@eaDir", "#recycle", "#snapshot", "@tmp", "@sharebin", "@sharesnap", "@SynoFinder-log"),
        ("@database", "@quarantine", "@synorec", "@synologydrive", "@cloudsync", "@iSCSI"),
        # QNAP, Asustor
        ("@Recycle", "@Recently-Snapshot", "@Transcode", "@__thumb", "@upload_cache"),
        # photo managers
        ("Picasa.ini", "ZbThumbnail.info", "pspbrwse.jbf", "digikam4.db"),
        # tools
        ("__pycache__", "node_modules", "_SUCCESS", "_temporary"),
    )
    for name in names
)
_STARTS = (b"~$", b"~syncthing~")
_ENDS = (
    b"~",  # backups of editors
    b":zone.identifier",  # written by Windows, copied to Linux
    b"\xef\x80\xbazone.identifier",
    b"@synoresource",
    b"@synoeastream",
    b"_$folder$",  # Hadoop on S3
)
_LAST_BYTES = frozenset({b"", b"#", *(end[-1:] for end in _ENDS)})


def is_clutter(name: bytes) -> bool:
    """Whether one name is hidden, or left behind by a system, a network drive or a tool."""
    if name[:1] == b".":
        return name not in (b".", b"..")
    lower = name.lower()
    if lower in CLUTTER:
        return True
    if lower[-1:] not in _LAST_BYTES and lower[:1] != b"~":
        return False  # Most names of images end here; a scan asks a million times.
    autosave = lower[:1] == b"#" == lower[-1:]  # of Emacs
    return autosave or lower.startswith(_STARTS) or lower.endswith(_ENDS)


def is_clutter_path(path: bytes) -> bool:
    """Whether a part of a path is clutter, as in ``@eaDir/a.JPEG/SYNOPHOTO_THUMB_M.jpg``."""
    return any(map(is_clutter, path.split(b"/"))) if b"/" in path else is_clutter(path)
