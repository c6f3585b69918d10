// Sums of rows, and half precision, as fast as the processor can: the loops of merging.
#ifndef SDCFFI_ROW_SUMS_HPP
#define SDCFFI_ROW_SUMS_HPP

#include <cstdint>

namespace sdcffi {

// row[i] += factors[0] * rows[0][i] + factors[1] * rows[1][i] + ...; `rows` has `count` rows of `columns` values.
void add_rows(float* row, const float* factors, const float* rows, int64_t count, int64_t columns);

void from_half(const uint16_t* half, float* values, int64_t count);
void to_half(const float* values, uint16_t* half, int64_t count);

}  // namespace sdcffi

#endif
