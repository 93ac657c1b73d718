"""A torch checkpoint (.bin, .pt, .pth) as a container: its tree of values, and where in the file each tensor's elements are.

Both forms that torch.save has written: a zip archive of stored members, and the older row of pickles with the storages behind
them. Needs no torch, unpacks nothing to disk and runs nothing (torch_pickle.py). Every extent is checked against the file, so that
rows of a tensor are read from it as from safetensors. Called by hf_folder.py, meta.py and inspect.py.
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from io import RawIOBase
from typing import Any

from ..errors import FormatError, UnsupportedError, escape
from .input_file import InputFile, looks_like
from .safetensors_file import DTYPE_BITS, SafetensorsEntry
from .torch_pickle import UNTYPED, PickledTensor, Storage, Unpickler, Unread

ZIP_MAGIC = b"PK\x03\x04"
_MAGIC = b"\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."                         # the one integer 0x1950a86a20f9469cfc6c, pickled
LEGACY_MAGICS = (b"\x80\x02" + _MAGIC, b"\x80\x03" + _MAGIC,        # and how each protocol begins
                 *(begin + b"\x95\r\0\0\0\0\0\0\0" + _MAGIC for begin in (b"\x80\x04", b"\x80\x05")))
LEGACY_PROTOCOL = 1001
MAX_PICKLE = 256 << 20
MAX_MEMBERS = 1 << 20
MAX_LEGACY_HEAD = 32 << 20         # bytes in which the older form's pickles have to end
LOCAL_HEADER = 30                  # bytes of a member's own header, before its name
ENCRYPTED = 1
LITTLE = b"little"                 # what the member `byteorder` holds


def is_torch(head: bytes) -> bool:
    """Whether a file's first bytes are those that torch.save writes."""
    return head.startswith((ZIP_MAGIC, *LEGACY_MAGICS))


def read_torch(file: InputFile) -> Any:
    """The value that was saved, with a SafetensorsEntry in place of every tensor at the tree's first two levels of dicts.

    FormatError or UnsupportedError names what is wrong; nothing in the file was run.
    """
    head = file.read(0, min(64, file.size))
    if head.startswith(ZIP_MAGIC):
        return _placed_tree(file.name, *_read_zip(file))
    if head.startswith(LEGACY_MAGICS):
        return _placed_tree(file.name, *_read_legacy(file))
    raise FormatError(f"{file.name}: expected a torch checkpoint, found {looks_like(head, file.size) or 'other first bytes'}")


def state_dict(file: InputFile) -> dict[str, SafetensorsEntry]:
    """The tensors of a file that is a state dict and nothing else."""
    return tensors_of(file.name, read_torch(file))


def tensors_of(name: str, tree: Any) -> dict[str, SafetensorsEntry]:
    """A dict of tensors, checked to be one."""
    if not isinstance(tree, dict) or not tree:
        raise FormatError(f"{name}: expected a dict of tensors, found {_kind(tree)}")
    for key, value in tree.items():
        if not isinstance(key, str) or not isinstance(value, SafetensorsEntry):
            raise FormatError(f"{name}: {escape(key)}: expected a tensor, found {_kind(value)}")
        if value.strides is not None and (len(value.strides) != 2 or 1 not in value.strides):
            raise UnsupportedError(f"{name}: {escape(key)}: a tensor with strides {value.strides} is not supported; save it "
                                   "contiguous")
    return tree


def _kind(value: Any) -> str:
    if isinstance(value, dict):
        return "a dict" if value else "an empty dict"
    if isinstance(value, Unread):
        return str(value)
    return "a tensor" if isinstance(value, (SafetensorsEntry, PickledTensor)) else f"a {type(value).__name__}"


# -- tensors: views of storages that lie in the file --------------------------------------------------------------------------


@dataclass(frozen=True)
class _Extent:
    offset: int                    # from the file's start
    nbytes: int


def _placed_tree(name: str, tree: Any, extents: Mapping[str, _Extent]) -> Any:
    """The tensors that a reader looks at get their place; deeper ones (an optimiser's) are of no use here."""
    if not isinstance(tree, dict):
        return tree
    return {key: {inner: _placed(name, f"{key}.{inner}", leaf, extents) for inner, leaf in value.items()}
            if isinstance(value, dict) and key != "optimizer" else _placed(name, str(key), value, extents)
            for key, value in tree.items()}


def _placed(name: str, key: str, tensor: Any, extents: Mapping[str, _Extent]) -> Any:
    if not isinstance(tensor, PickledTensor):
        return tensor
    where, storage = f"{name}: {escape(key)}", tensor.storage
    extent = extents.get(storage.key)
    if extent is None:
        raise FormatError(f"{where}: expected the storage {escape(storage.key)} in the file, found none")
    item = DTYPE_BITS[tensor.dtype] // 8
    stored = storage.numel * (1 if storage.dtype == UNTYPED else DTYPE_BITS[storage.dtype] // 8)
    if stored != extent.nbytes:
        raise FormatError(f"{where}: expected a storage of {stored} bytes, found {extent.nbytes}")
    numel = 1
    for size in tensor.shape:
        numel *= size
    last = tensor.offset + sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.strides, strict=True))
    if numel and (last + 1) * item > extent.nbytes:
        raise FormatError(f"{where}: expected a tensor inside its storage of {extent.nbytes} bytes, found one that ends at "
                          f"{(last + 1) * item}")
    if numel * item >= 1 << 63:
        raise FormatError(f"{where}: expected a tensor below 2^63 bytes, found more")
    strides = None if _row_major(tensor) else tensor.strides
    return SafetensorsEntry(tensor.dtype, tensor.shape, extent.offset + tensor.offset * item, numel * item, strides)


def _row_major(tensor: PickledTensor) -> bool:
    expected = 1
    for size, stride in zip(reversed(tensor.shape), reversed(tensor.strides), strict=True):
        if size != 1 and stride != expected:
            return False
        expected *= size
    return True


# -- the zip archive ----------------------------------------------------------------------------------------------------------


class _Seekable(RawIOBase):
    """An InputFile for zipfile, which reads the archive's directory."""

    def __init__(self, file: InputFile) -> None:
        self._file = file
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = 0) -> int:
        self._at = max(offset + (0, self._at, self._file.size)[whence], 0)
        return self._at

    def readinto(self, buffer: Any) -> int:
        size = max(min(len(buffer), self._file.size - self._at), 0)
        buffer[:size] = self._file.read(self._at, size)
        self._at += size
        return size


def _read_zip(file: InputFile) -> tuple[Any, dict[str, _Extent]]:
    members = _members(file)
    pickles = [name for name in members if name.endswith("/data.pkl")]
    if len(pickles) != 1:
        raise FormatError(f"{file.name}: expected a torch checkpoint, found a zip archive with {len(pickles)} members data.pkl")
    folder = pickles[0][: -len("data.pkl")]
    order = members.get(f"{folder}byteorder")
    if order is not None and (order[0].nbytes != len(LITTLE) or file.read(order[0].offset, len(LITTLE)) != LITTLE):
        raise UnsupportedError(f"{file.name}: a checkpoint of a big-endian machine is not supported")
    extent, crc = members[pickles[0]]
    if extent.nbytes > MAX_PICKLE:
        raise FormatError(f"{file.name}: data.pkl: expected at most {MAX_PICKLE} bytes, found {extent.nbytes}")
    data = file.read(extent.offset, extent.nbytes)
    if crc and zlib.crc32(data) != crc:          # 0: torch was told to write none
        raise FormatError(f"{file.name}: data.pkl: expected its checksum, found another; the file is damaged")
    unpickler = Unpickler(data, file.name)
    tree = unpickler.load()
    if unpickler.at != len(data):
        raise FormatError(f"{file.name}: data.pkl: expected one pickle, found {len(data) - unpickler.at} bytes behind it")
    prefix = f"{folder}data/"
    return tree, {name[len(prefix):]: member for name, (member, _crc) in members.items() if name.startswith(prefix)}


def _members(file: InputFile) -> dict[str, tuple[_Extent, int]]:
    """Name -> extent and CRC-32 of every member, all stored as they are, none twice, none inside another."""
    try:
        with zipfile.ZipFile(_Seekable(file)) as archive:
            infos = archive.infolist()
    except (zipfile.BadZipFile, zipfile.LargeZipFile, NotImplementedError, ValueError, EOFError) as error:
        raise FormatError(f"{file.name}: expected a whole zip archive, found {escape(str(error) or 'damage')}") from None
    if len(infos) > MAX_MEMBERS:
        raise FormatError(f"{file.name}: expected at most {MAX_MEMBERS} members, found {len(infos)}")
    if any("/code/" in info.orig_filename or info.orig_filename.endswith("/constants.pkl") for info in infos):
        raise UnsupportedError(f"{file.name}: a TorchScript archive is not supported; save the module's state_dict")
    members: dict[str, tuple[_Extent, int]] = {}
    end = 0
    for info in sorted(infos, key=lambda info: info.header_offset):
        name = info.orig_filename
        shown = f"{file.name}: {escape(name)}"
        if info.compress_type != zipfile.ZIP_STORED or info.file_size != info.compress_size:
            raise UnsupportedError(f"{shown}: expected a member that is stored, found a compressed one")
        if info.flag_bits & ENCRYPTED:
            raise UnsupportedError(f"{shown}: an encrypted member is not supported")
        if name in members or "\0" in name or "\\" in name or name.startswith("/") or ".." in name.split("/"):
            raise FormatError(f"{shown}: expected plain names, each once, found this one")
        if info.header_offset < end or not members and info.header_offset != 0:
            raise FormatError(f"{shown}: expected its header at byte {end} or behind, found it at {info.header_offset}")
        header = file.read(info.header_offset, LOCAL_HEADER)
        name_size, extra_size = (int.from_bytes(header[at : at + 2], "little") for at in (26, 28))
        begin = info.header_offset + LOCAL_HEADER + name_size + extra_size
        own = file.read(info.header_offset + LOCAL_HEADER, name_size) if header.startswith(ZIP_MAGIC) else b""
        if own != name.encode("utf-8", "surrogateescape") or header[8:10] != b"\0\0":
            raise FormatError(f"{shown}: expected its own header to say the same as the archive's directory, found another")
        end = begin + info.file_size
        if end > file.size:
            raise FormatError(f"{shown}: expected {info.file_size} bytes at {begin}, found the end of the file at {file.size}")
        members[name] = _Extent(begin, info.file_size), info.CRC
    return members


# -- the older form -----------------------------------------------------------------------------------------------------------


def _read_legacy(file: InputFile) -> tuple[Any, dict[str, _Extent]]:
    """magic, protocol, the machine, the value, the storages' keys: five pickles; then u64 count and elements of each storage."""
    data = file.read(0, min(file.size, MAX_LEGACY_HEAD))
    unpickler = Unpickler(data, file.name, next(len(magic) for magic in LEGACY_MAGICS if data.startswith(magic)))
    protocol, machine = unpickler.load(), unpickler.load()
    if protocol != LEGACY_PROTOCOL or not isinstance(machine, dict):
        raise FormatError(f"{file.name}: expected torch's protocol {LEGACY_PROTOCOL}, found another")
    if machine.get("little_endian") is not True:
        raise UnsupportedError(f"{file.name}: a checkpoint of a big-endian machine is not supported")
    storages = _Collector(data, file.name, unpickler.at)
    tree = storages.load()
    storages_of = dict(storages.found)
    keys = storages.load()
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys) or set(keys) != set(storages_of):
        raise FormatError(f"{file.name}: expected the keys of all storages, found something else")
    extents: dict[str, _Extent] = {}
    at = storages.at
    for key in keys:
        storage = storages_of[key]
        numel = int.from_bytes(file.read(at, 8), "little")
        if numel != storage.numel or storage.dtype == UNTYPED:
            raise FormatError(f"{file.name}: storage {escape(key)}: expected {storage.numel} elements, found {numel}")
        nbytes = numel * DTYPE_BITS[storage.dtype] // 8
        if nbytes > file.size - at - 8:
            raise FormatError(f"{file.name}: storage {escape(key)}: expected {nbytes} bytes at {at + 8}, found the end of the file "
                              f"at {file.size}")
        extents[key] = _Extent(at + 8, nbytes)
        at += 8 + nbytes
    if at != file.size:
        raise FormatError(f"{file.name}: expected a file of {at} bytes, found {file.size}")
    return tree, extents


class _Collector(Unpickler):
    """Remembers the storages that a pickle describes, of which this form says the length nowhere else."""

    def __init__(self, data: bytes, name: str, at: int) -> None:
        super().__init__(data, name, at)
        self.found: dict[str, Storage] = {}

    def _persistent(self) -> None:
        super()._persistent()
        storage = self._stack[-1]
        self.found[storage.key] = storage
