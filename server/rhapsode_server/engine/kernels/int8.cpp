// What stands before and after a product of int8: rows of floats to levels of 8 bits with one scale for each row, and
// sums of products to floats again. Both give what the torch form in quantize.py gives.
//
// A row with a few numbers far above all others would lose these others. So such a row, and it alone, has a second row
// of levels for what the first one left.
//
// R rows, E second rows, I inputs, O outputs.

#include <algorithm>
#include <cmath>
#include <cstring>

#include "parallel.h"

using namespace rhapsode;

namespace {

constexpr int64_t WORTH_ALL_THREADS = 16 * 1024;  // floats
constexpr int64_t SUMMED_IN_32_BITS = 64 * 1024;   // squares of levels
constexpr int64_t COARSE = 10;  // times the root of the mean square: a larger number in a row makes its levels few

INLINE float largest_magnitude(const float* row, int64_t length) {
    // Without the sign the bits of floats are in the order of their values, with NaN above all: it is not lost.
    int32_t largest = 0;
    for (int64_t i = 0; i < length; ++i) {
        int32_t bits;
        std::memcpy(&bits, row + i, sizeof bits);
        largest = std::max(largest, bits & 0x7fffffff);
    }
    float value;
    std::memcpy(&value, &largest, sizeof value);
    return value;
}

INLINE uint8_t level(float value, int64_t highest) { return uint8_t(int32_t(value) + int32_t(highest + 1)); }

// Returns whether the levels of the row are few.
CLONES bool quantize_row(const float* row, uint8_t* levels, float* scale, int64_t length, int64_t highest,
                         float smallest) {
    const float largest = std::max(largest_magnitude(row, length), smallest);
    const float levels_per_unit = 1.0f / largest * float(highest);
    int64_t sum_of_squares = 0;
    for (int64_t begin = 0; begin < length; begin += SUMMED_IN_32_BITS) {
        const int64_t end = std::min(length, begin + SUMMED_IN_32_BITS);
        int32_t sum = 0;
        for (int64_t i = begin; i < end; ++i) {
            const float rounded = std::nearbyint(row[i] * levels_per_unit);
            levels[i] = level(rounded, highest);
            sum += int32_t(rounded) * int32_t(rounded);
        }
        sum_of_squares += sum;
    }
    *scale = largest / float(highest);
    return sum_of_squares * COARSE * COARSE < length * highest * highest;
}

CLONES void quantize_rest(const float* row, uint8_t* levels, int64_t length, int64_t highest, float smallest) {
    const float levels_per_unit = 1.0f / std::max(largest_magnitude(row, length), smallest) * float(highest);
    for (int64_t i = 0; i < length; ++i) {
        const float exact = row[i] * levels_per_unit;
        levels[i] = level(std::nearbyint((exact - std::nearbyint(exact)) * float(2 * highest)), highest);
    }
}

CLONES void dequantize_row(float* row, float scale, const float* bias, int64_t length) {
    if (bias) {
        for (int64_t o = 0; o < length; ++o) row[o] = row[o] * scale + bias[o];
    } else {
        for (int64_t o = 0; o < length; ++o) row[o] *= scale;
    }
}

CLONES void add_rest(float* row, const float* rest, float scale, int64_t length) {
    for (int64_t o = 0; o < length; ++o) row[o] += rest[o] * scale;
}

}  // namespace

extern "C" {

// input [R, I] to levels [R + E, I] about highest + 1, scales [R], and the rows [E] that have a second one; returns E.
// A row of zeros counts as `smallest`. There is room for R second rows.
int64_t rhapsode_quantize_rows(const float* input, uint8_t* levels, float* scales, int64_t* owners, int64_t num_rows,
                               int64_t num_inputs, int64_t highest, float smallest) {
    const bool on_all = num_rows * num_inputs >= WORTH_ALL_THREADS;
    for_each_task(num_rows, on_all, [&](int64_t row) {
        const int64_t place = row * num_inputs;
        owners[row] = quantize_row(input + place, levels + place, scales + row, num_inputs, highest, smallest);
    });
    int64_t num_owners = 0;
    for (int64_t row = 0; row < num_rows; ++row) {
        if (owners[row]) owners[num_owners++] = row;
    }
    for_each_task(num_owners, on_all, [&](int64_t rest) {
        quantize_rest(input + owners[rest] * num_inputs, levels + (num_rows + rest) * num_inputs, num_inputs, highest,
                      smallest);
    });
    return num_owners;
}

// products [R + E, O] times scales [R], plus bias [O] or null, in place: [R, O].
void rhapsode_dequantize_rows(float* products, const float* scales, const float* bias, const int64_t* owners,
                              int64_t num_rows, int64_t num_owners, int64_t num_outputs, int64_t highest) {
    const bool on_all = num_rows * num_outputs >= WORTH_ALL_THREADS;
    for_each_task(num_rows, on_all, [&](int64_t row) {
        dequantize_row(products + row * num_outputs, scales[row], bias, num_outputs);
    });
    for_each_task(num_owners, on_all, [&](int64_t rest) {
        const int64_t row = owners[rest];
        add_rest(products + row * num_outputs, products + (num_rows + rest) * num_outputs,
                 scales[row] / float(2 * highest), num_outputs);
    });
}
}
