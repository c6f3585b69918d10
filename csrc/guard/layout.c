/* The size and offset of every field of the headers' structs, as the compiler of the library sees them.
 * The build writes layout_fields.inc from the preprocessed headers: STRUCT(type) and FIELD(type, field) lines. */
#include "guard.h"

#define STRUCT(type) {#type, "", 0, sizeof(type)},
#define FIELD(type, field) {#type, #field, offsetof(type, field), sizeof(((type*)0)->field)},

static const sdg_layout_row kRows[] = {
#include "layout_fields.inc"
};

const sdg_layout_row* sdg_layout(size_t* count) {
    *count = sizeof kRows / sizeof kRows[0];
    return kRows;
}
