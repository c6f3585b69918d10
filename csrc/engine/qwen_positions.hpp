// Positions of tokens in Qwen-Image, as its authors' QwenEmbedRope and Qwen2.5-VL have them. Engine-free.
#ifndef SDCFFI_QWEN_POSITIONS_HPP
#define SDCFFI_QWEN_POSITIONS_HPP

#include <algorithm>
#include <cmath>
#include <utility>
#include <vector>

namespace sdcffi {

using Positions = std::vector<std::vector<float>>;  // of each token, along each axis

// An image as the transformer gets it: frames, rows and columns of tokens.
struct TokenGrid {
    int frames, rows, columns;
};

inline TokenGrid token_grid(int frames, int height, int width, int patch_size) {
    return {frames, (height + patch_size / 2) / patch_size, (width + patch_size / 2) / patch_size};
}

// Rows and columns are counted from the middle: of an odd number the half that is larger is negative.
inline void add_image_positions(Positions& positions, const TokenGrid& grid, int first_frame) {
    const int top = grid.rows / 2 - grid.rows, left = grid.columns / 2 - grid.columns;
    for (int frame = 0; frame < grid.frames; frame++) {
        for (int row = 0; row < grid.rows; row++) {
            for (int column = 0; column < grid.columns; column++) {
                positions.push_back({float(first_frame + frame), float(top + row), float(left + column)});
            }
        }
    }
}

// Positions of the text, the image and the images that it refers to. Text begins beyond the half of the largest. In a
// layered image each layer is a frame, and what it refers to is frame -1.
inline Positions qwen_image_positions(int text, const TokenGrid& image, const std::vector<TokenGrid>& references,
                                      bool layered, int batch) {
    Positions images;
    int start  = std::max({image.rows / 2, image.columns / 2, layered ? image.frames : 0});
    int number = 0;
    add_image_positions(images, image, 0);
    for (const TokenGrid& reference : references) {
        add_image_positions(images, reference, layered ? -1 : ++number);
        start = std::max({start, reference.rows / 2, reference.columns / 2});
    }
    Positions all;
    for (int item = 0; item < batch; item++) {
        for (int i = 0; i < text; i++) {
            all.push_back(std::vector<float>(3, float(start + i)));
        }
        all.insert(all.end(), images.begin(), images.end());
    }
    return all;
}

template <typename Tensors>
Positions qwen_image_positions(int frames, int height, int width, int patch_size, int batch, int text,
                               const Tensors& references, bool layered) {
    std::vector<TokenGrid> grids;
    for (auto* reference : references) {
        grids.push_back(token_grid(1, int(reference->ne[1]), int(reference->ne[0]), patch_size));
    }
    return qwen_image_positions(text, token_grid(frames, height, width, patch_size), grids, layered, batch);
}

// An image among the text's tokens of Qwen2.5-VL.
struct ImageGrid {
    int first;  // its first token
    int rows, columns;
};

// Gives the tokens their positions along three axes (M-RoPE), which `positions` has one after the other: those of an image
// have its place in time, their row and their column. What is behind it goes on after the largest of them.
inline void set_image_positions(std::vector<int>& positions, int tokens, const std::vector<ImageGrid>& images) {
    int next = 0, token = 0;
    auto add = [&](int time, int row, int column) {
        positions[token]              = time;
        positions[tokens + token]     = row;
        positions[2 * tokens + token] = column;
        token++;
    };
    for (const ImageGrid& image : images) {
        while (token < image.first) {
            add(next, next, next);
            next++;
        }
        for (int i = 0; i < image.rows * image.columns; i++) {
            add(next, next + i / image.columns, next + i % image.columns);
        }
        next += std::max(image.rows, image.columns);
    }
    while (token < tokens) {
        add(next, next, next);
        next++;
    }
}

inline int in_steps(double length, int step) {
    return std::max(int(std::nearbyint(length / step)), 1) * step;
}

// Height and width to which the authors' pipeline resizes an image that Qwen-Image-Edit refers to, for its text: an area of
// 384 x 384. Halves of a step are rounded to even numbers.
inline std::pair<int, int> condition_area(int height, int width) {
    const double ratio = double(width) / height, across = std::sqrt(384. * 384. * ratio);
    return {in_steps(across / ratio, 32), in_steps(across, 32)};
}

// Those at which Qwen2.5-VL then sees it; `factor` is a token's side.
inline std::pair<int, int> condition_size(int height, int width, int factor) {
    const auto [first_height, first_width] = condition_area(height, width);
    return {in_steps(first_height, factor), in_steps(first_width, factor)};
}

}  // namespace sdcffi

#endif
