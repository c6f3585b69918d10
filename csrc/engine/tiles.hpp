// Encoding and decoding in tiles. vae.hpp includes this file, after the engine's tensors.
#ifndef SDCFFI_TILES_HPP
#define SDCFFI_TILES_HPP

#include <cstdint>
#include <utility>
#include <vector>

#include "tile_axis.hpp"

namespace sdcffi {

template <typename Tensor>
void add_tile(const Tensor& tile, Tensor* image, int first_x, int first_y, const std::vector<float>& weights_x,
              const std::vector<float>& weights_y) {
    const int64_t width = image->shape()[0], height = image->shape()[1], plane = width * height;
    const int64_t columns = tile.shape()[0], rows = tile.shape()[1], planes = image->numel() / plane;
    for (int64_t p = 0; p < planes; p++) {
        for (int64_t y = 0; y < rows; y++) {
            for (int64_t x = 0; x < columns; x++) {
                const float weight = weights_x[x] * weights_y[y];
                if (weight > 0.f) {
                    (*image)[p * plane + (first_y + y) % height * width + (first_x + x) % width] +=
                        weight * tile[(p * rows + y) * columns + x];
                }
            }
        }
    }
}

// Computes an image of latents, or latents of an image, in tiles; `compute` returns an empty tensor if it failed.
template <typename Tensor, typename Compute>
Tensor compute_in_tiles(const Tensor& input, int output_width, int output_height, int scale, int tile_x, int tile_y,
                        float overlap, bool circular_x, bool circular_y, Compute&& compute, bool silent) {
    const int input_width = static_cast<int>(input.shape()[0]), input_height = static_cast<int>(input.shape()[1]);
    const bool decodes = output_width > input_width;
    auto along         = [&](int size, int tile, bool circular) {
        tile = std::min(tile, size);
        return tiles_along({size, tile, static_cast<int>(tile * overlap), circular}, decodes ? scale : 1);
    };
    const auto columns = along(std::min(input_width, output_width), tile_x, circular_x);
    const auto rows    = along(std::min(input_height, output_height), tile_y, circular_y);
    const int in = decodes ? 1 : scale, out = decodes ? scale : 1;
    const int count = static_cast<int>(rows.size() * columns.size());
    int done        = 0;
    auto tell       = [&](float seconds) {
        if (!silent) {
            pretty_progress(done, count, seconds);
        }
    };
    tell(0.f);
    Tensor output;
    for (const AxisTile& row : rows) {
        for (const AxisTile& column : columns) {
            const int64_t start = ggml_time_ms();
            const int width = static_cast<int>(column.weights.size()) / out * in;
            const int height = static_cast<int>(row.weights.size()) / out * in;
            const Tensor tile = compute(sd_tensor_split_2d(input, width, height, column.begin * in, row.begin * in));
            if (tile.empty()) {
                return {};
            }
            GGML_ASSERT(tile.shape()[0] == static_cast<int64_t>(column.weights.size()) &&
                        tile.shape()[1] == static_cast<int64_t>(row.weights.size()));
            if (output.empty()) {
                std::vector<int64_t> shape = tile.shape();
                shape[0] = output_width, shape[1] = output_height;
                output = Tensor::zeros(std::move(shape));
            }
            add_tile(tile, &output, column.begin * out, row.begin * out, column.weights, row.weights);
            done++;
            tell((ggml_time_ms() - start) / 1000.f);
        }
    }
    return output;
}

}  // namespace sdcffi

#endif
