"""Random numbers of other programs in numpy: CUDA's as AUTOMATIC1111 has them, torch's on the CPU, and GNU's C++."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]


def cuda(size: int, seed: int, draw: int = 0) -> Array:
    """torch.randn on a GPU: Philox 4x32 of ten rounds (Salmon et al., 2011), of whose four numbers two are used."""
    low, high = np.uint64(0xFFFFFFFF), np.uint64(32)
    counter = [np.full(size, draw, np.uint64), np.zeros(size, np.uint64), np.arange(size, dtype=np.uint64)]
    counter.append(np.zeros(size, np.uint64))
    keys = [seed & 0xFFFFFFFF, seed >> 32]
    for _ in range(10):
        first, second = counter[0] * np.uint64(0xD2511F53), counter[2] * np.uint64(0xCD9E8D57)
        one, other = (np.uint64(key) for key in keys)
        counter = [second >> high ^ counter[1] ^ one, second & low, first >> high ^ counter[3] ^ other, first & low]
        keys = [(key + step) & 0xFFFFFFFF for key, step in zip(keys, (0x9E3779B9, 0xBB67AE85), strict=True)]
    length, angle = ((numbers.astype(float) + 0.5) / 2**32 for numbers in counter[:2])
    return np.asarray(np.sqrt(-2 * np.log(length)) * np.sin(2 * np.pi * angle))


def cpu(size: int, seed: int, draw: int = 0) -> Array:
    """torch.randn on the CPU for 16 numbers and more, here a multiple of it: pairs are eight places apart."""
    twister = np.random.RandomState(seed)
    words = twister.randint(0, 2**32, (draw + 1) * size, np.uint32)[draw * size :]
    pairs = ((words & 0xFFFFFF) / 2**24).reshape(-1, 2, 8)
    length, angle = np.sqrt(-2 * np.log(1 - pairs[:, 0])), 2 * np.pi * pairs[:, 1]
    return np.stack([length * np.cos(angle), length * np.sin(angle)], axis=1).reshape(-1)


def libstdcxx(size: int, seed: int, draw: int = 0) -> Array:
    """std::default_random_engine (MINSTD) and std::normal_distribution<float>, Marsaglia's polar method."""
    state, one, found = seed % (2**31 - 1) or 1, np.float32(1), []

    def uniform() -> np.float32:
        """From -1 to 1."""
        nonlocal state
        state = state * 16807 % (2**31 - 1)
        share = min(np.float32(state - 1) / np.float32(2**31 - 2), np.nextafter(one, -one))
        return np.float32(2 * share - one)

    for _ in range((draw + 1) * size // 2):
        square = np.float32(0)
        while square == 0 or square > 1:
            saved, first = uniform(), uniform()
            square = saved * saved + first * first
        length = np.sqrt(-2 * np.log(float(square)) / float(square))
        found += [float(first) * length, float(saved) * length]
    return np.array(found[draw * size :])
