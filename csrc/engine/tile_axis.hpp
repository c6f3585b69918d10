// Where tiles of an image begin along one axis, and how much each counts for each pixel. Engine-free.
#ifndef SDCFFI_TILE_AXIS_HPP
#define SDCFFI_TILE_AXIS_HPP

#include <algorithm>
#include <vector>

namespace sdcffi {

// Lengths in latents; a latent is `scale` pixels. Tiles of a circular axis go on at the beginning.
struct TileAxis {
    int size;
    int tile;
    int overlap;  // at least so much of two neighbours is the same, and so much of it is blended
    bool circular;
};

struct AxisTile {
    int begin;                   // in latents
    std::vector<float> weights;  // of its pixels; for each pixel of the image they add up to 1
};

inline float smoother_step(float x) {
    return x * x * x * (x * (6.f * x - 15.f) + 10.f);
}

// Tiles are as many as the overlap asks for, and spread evenly.
inline std::vector<int> tile_beginnings(const TileAxis& axis) {
    const int step = std::max(axis.tile - axis.overlap, 1);
    std::vector<int> begin;
    if (axis.circular) {
        const int count = std::max((axis.size + step - 1) / step, 2);
        for (int i = 0; i < count; i++) {
            begin.push_back(static_cast<int>(static_cast<long long>(i) * axis.size / count));
        }
    } else {
        const int rest = std::max(axis.size - axis.tile, 0), gaps = (rest + step - 1) / step;
        begin.push_back(0);
        for (int i = 1; i <= gaps; i++) {
            begin.push_back(static_cast<int>((2LL * i * rest + gaps) / (2 * gaps)));
        }
    }
    return begin;
}

// The middle of what two neighbours share is blended, over the length that was asked for: at their outer edges tiles lack
// what is beside them.
inline std::vector<AxisTile> tiles_along(const TileAxis& axis, int scale) {
    const std::vector<int> begin = tile_beginnings(axis);
    const int count = static_cast<int>(begin.size()), pixels = axis.tile * scale;
    std::vector<AxisTile> tiles;
    for (int first : begin) {
        tiles.push_back({first, std::vector<float>(pixels, 1.f)});
    }
    int least = axis.size;
    for (int i = 0; i < count; i++) {
        least = std::min(least, (i + 1 < count ? begin[i + 1] : begin[0] + axis.size) - begin[i]);
    }
    for (int i = 0; i < (axis.circular ? count : count - 1); i++) {
        AxisTile &left = tiles[i], &right = tiles[(i + 1) % count];
        const int step   = right.begin - left.begin + (right.begin <= left.begin ? axis.size : 0);
        const int shared = (axis.tile - step) * scale;
        const int blend  = std::min({axis.overlap * scale, shared, least * scale}), margin = (shared - blend) / 2;
        for (int k = 0; k < shared; k++) {
            const int into    = k - margin;
            const float share = into < 0 ? 0.f : into >= blend ? 1.f : smoother_step(static_cast<float>(into) / blend);
            left.weights[pixels - shared + k] *= 1.f - share;
            right.weights[k] *= share;
        }
    }
    std::vector<float> sums(static_cast<size_t>(axis.size) * scale, 0.f);
    auto place = [&](const AxisTile& tile, int k) { return (tile.begin * scale + k) % sums.size(); };
    for (AxisTile& tile : tiles) {
        for (int k = 0; k < pixels; k++) {
            sums[place(tile, k)] += tile.weights[k];
        }
    }
    for (AxisTile& tile : tiles) {
        for (int k = 0; k < pixels; k++) {
            tile.weights[k] /= sums[place(tile, k)];
        }
    }
    return tiles;
}

}  // namespace sdcffi

#endif
