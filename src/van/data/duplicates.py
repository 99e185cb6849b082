"""Images that are the same or look the same, within a split and across splits, without comparing each with each.

Two images look the same if their perceptual hashes differ in at most `NEAR` of 64 bits and their thumbnails by at most
`ALIKE` per color value on average. That finds copies that were resized, recompressed or slightly changed; crops,
rotated and mirrored copies are not found.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

THUMB = 16
"""Height and width of thumbnails."""

NEAR = 4
"""Bits of the perceptual hash in which images that look the same may differ."""

ALIKE = 6.0
"""Mean difference of the color values (0 to 255) of the thumbnails of images that look the same."""

_EDGE = 32  # of the image that is hashed
_KEPT = 8  # lowest frequencies across and down
_BANDS = (13, 13, 13, 13, 12)  # bits: of NEAR + 1 bands one is equal where at most NEAR bits differ
_CROWD = 512  # images of a band that are not all compared with each other
_COARSE = 4  # edge of what thumbnails are compared by first
_ROUNDS = 20  # different images with the same hash, such as blank ones, that get a group of their own


def fingerprint(image: Image.Image) -> tuple[int, np.ndarray]:
    """Return the perceptual hash (pHash) of an RGB image and its thumbnail.

    The hash tells which of the lowest 8 x 8 frequencies of the discrete cosine transform of the grey image are above
    their median (Zauner 2010).
    """
    from scipy.fft import dctn

    small = image.resize((_EDGE, _EDGE), Image.Resampling.BOX)
    grey = np.asarray(small.convert("L"), np.float32)
    low = np.asarray(dctn(grey, norm="ortho"))[:_KEPT, :_KEPT].ravel()
    code = int.from_bytes(np.packbits(low > np.median(low)).tobytes(), "big")
    return code, np.asarray(small.resize((THUMB, THUMB), Image.Resampling.BOX))


@dataclass(frozen=True)
class Group:
    """Images that are the same or look the same.

    Attributes:
        members: Their indices, in order.
        exact: Whether all of them have the same content.
    """

    members: tuple[int, ...]
    exact: bool


def find_duplicates(digests: Sequence[bytes], codes: np.ndarray, thumbs: np.ndarray) -> list[Group]:
    """Return groups of images that are the same or look the same, each image in at most one.

    Args:
        digests: Of the content of each image; images with an empty one are left out.
        codes: Perceptual hashes, shape (N,) uint64.
        thumbs: Thumbnails, shape (N, THUMB, THUMB, 3) uint8.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    known = np.flatnonzero([bool(digest) for digest in digests])
    if len(known) < 2:
        return []
    codes, thumbs = codes[known], thumbs[known]
    side = THUMB // _COARSE
    coarse = thumbs.reshape(-1, _COARSE, side, _COARSE, side, 3).mean((2, 4), dtype=np.float32).reshape(len(known), -1)
    pairs = [np.zeros((0, 2), int), *_same(codes, thumbs, coarse), *_near(codes, thumbs, coarse)]
    ones, others = np.concatenate(pairs).T
    graph = coo_array((np.ones(len(ones), bool), (ones, others)), shape=(len(known), len(known)))
    _, group_of = connected_components(graph, directed=False)
    order = np.argsort(group_of, kind="stable")
    starts = np.flatnonzero(np.diff(group_of[order], prepend=-1))
    groups = [known[part].tolist() for part in np.split(order, starts[1:]) if len(part) > 1]
    return sorted(
        (Group(tuple(group), len({digests[i] for i in group}) == 1) for group in groups), key=lambda one: one.members
    )


def _alike(thumbs: np.ndarray, coarse: np.ndarray, ones: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Return which pairs have similar thumbnails; those whose coarse ones differ more need no closer look."""
    found = np.zeros(len(ones), bool)
    for start in range(0, len(ones), 4096):
        part = slice(start, start + 4096)
        rough = np.abs(coarse[ones[part]] - coarse[others[part]]).mean(1) <= ALIKE
        left, right = ones[part][rough], others[part][rough]
        difference = thumbs[left].astype(np.int16) - thumbs[right]
        found[part][rough] = np.abs(difference).mean((1, 2, 3)) <= ALIKE
    return found


def _same(codes: np.ndarray, thumbs: np.ndarray, coarse: np.ndarray) -> Iterator[np.ndarray]:
    """Yield pairs (P, 2) of images with equal hashes: each with the first one of its kind."""
    rest = np.argsort(codes, kind="stable")
    for _ in range(_ROUNDS):
        if not len(rest):
            return
        starts = np.flatnonzero(np.diff(codes[rest], prepend=~codes[rest[0]]))
        firsts = np.repeat(rest[starts], np.diff(starts, append=len(rest)))
        own = firsts == rest
        found = _alike(thumbs, coarse, firsts, rest)
        yield np.stack([firsts, rest], 1)[found & ~own]
        rest = rest[~found & ~own]


def _near(codes: np.ndarray, thumbs: np.ndarray, coarse: np.ndarray) -> Iterator[np.ndarray]:
    """Yield pairs (P, 2) of images whose hashes differ by 1 to NEAR bits; of equal hashes only the first one."""
    distinct, firsts = np.unique(codes, return_index=True)
    low = 0
    for width in _BANDS:
        band = (distinct >> np.uint64(low)) & np.uint64((1 << width) - 1)
        low += width
        order = np.argsort(band, kind="stable")
        starts = np.flatnonzero(np.diff(band[order].astype(np.int64), prepend=-1))
        for bucket in np.split(order, starts[1:]):
            while len(bucket) > _CROWD:  # as many frames of a video: what looks like the first one is done with
                near = np.flatnonzero(np.bitwise_count(distinct[bucket[0]] ^ distinct[bucket]) <= NEAR)
                pairs = np.stack([np.full(len(near), firsts[bucket[0]]), firsts[bucket[near]]], 1)
                found = _alike(thumbs, coarse, *pairs.T)
                yield pairs[found][1:]
                bucket = np.delete(bucket, near[found])
            if len(bucket) > 1:
                near = np.bitwise_count(distinct[bucket][:, None] ^ distinct[bucket]) <= NEAR
                pairs = firsts[bucket[np.argwhere(np.triu(near, 1))]]
                if len(pairs):
                    yield pairs[_alike(thumbs, coarse, *pairs.T)]
