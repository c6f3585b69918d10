// Reads T5's sizes from the shapes of its weights, for the revision that has them as constants.
#ifndef SDCFFI_T5_SIZES_HPP
#define SDCFFI_T5_SIZES_HPP

#include <string>

namespace sdcffi {

template <typename Sizes, typename Tensors>
void read_t5_sizes(Sizes& sizes, const Tensors& tensors, const std::string& prefix) {
    const auto read = [&](const std::string& name, int dimension, int64_t& size) {
        const auto found = tensors.find(prefix + "." + name);
        if (found != tensors.end() && found->second.n_dims == 2) {
            size = found->second.ne[dimension];
        }
    };
    const std::string attention = "encoder.block.0.layer.0.SelfAttention.";
    read("shared.weight", 0, sizes.model_dim);
    read("shared.weight", 1, sizes.vocab_size);
    read(attention + "q.weight", 1, sizes.inner_dim);
    read(attention + "relative_attention_bias.weight", 0, sizes.num_heads);
    read("encoder.block.0.layer.1.DenseReluDense.wi_0.weight", 1, sizes.ff_dim);
    int64_t layers        = 0;
    const auto has_layer = [&](int64_t layer) {
        return tensors.find(prefix + ".encoder.block." + std::to_string(layer) + ".layer.0.SelfAttention.q.weight") != tensors.end();
    };
    while (has_layer(layers)) {
        layers++;
    }
    sizes.num_layers = layers > 0 ? layers : sizes.num_layers;
}

}  // namespace sdcffi

#endif
