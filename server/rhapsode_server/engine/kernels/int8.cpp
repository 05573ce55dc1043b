// y = x W^T + b with weights of 8 bits, by the instructions that machines have for it (AVX-512 VNNI): rows of floats
// become levels of 8 bits with one scale for each row, and sums of products, which are exact, floats again.
//
// A row with a few numbers far above all others would lose these others. So such a row, and it alone, has a second row
// of levels for what the first one left.
//
// R rows, E second rows, I inputs, U units of four inputs, O outputs.

#include <cmath>
#include <cstring>
#include <memory>

#include "parallel.h"

#ifdef HAS_CLONES
#include <immintrin.h>

#include <algorithm>
// For what follows: the headers above may be shared with code that has to run on any machine.
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,fma")
#include "panels.h"

using namespace rhapsode;

namespace {

constexpr int64_t WORTH_ALL_THREADS = 16 * 1024;  // floats
constexpr int64_t SUMMED_IN_32_BITS = 64 * 1024;  // squares of levels
constexpr int64_t COARSE = 10;  // times the root of the mean square: a larger number in a row makes its levels few
constexpr int32_t HIGHEST = 127, ZERO = HIGHEST + 1;
constexpr float SMALLEST = 1e-12f;

struct Int8Arithmetic {
    using Unit = int32_t;
    using Vector = __m512i;
    static INLINE __m512i load(const int32_t* from) { return _mm512_loadu_si512(from); }
    static INLINE void store(int32_t* to, __m512i value) { _mm512_storeu_si512(to, value); }
    static INLINE __m512i plus_product(__m512i sums, int32_t levels, __m512i weights) {
        // With the intrinsic GCC 12 copies every sum twice, and has registers for half of them.
        asm("vpdpbusd %2, %1, %0" : "+v"(sums) : "v"(_mm512_set1_epi32(levels)), "v"(weights));
        return sums;
    }
};

struct Int8Linear {
    const float* input;
    const int32_t* weights;
    const float* scales;      // [O]
    const int32_t* zero_sums;  // [O]: what the levels' zero adds to each sum
    const float* bias;
    float* out;
    int64_t num_rows, num_inputs, num_outputs, num_units;
    uint8_t* levels;     // [R + E, U * 4]
    float* row_scales;   // [R]
    int64_t* owners;     // [E]: the rows that have a second one
    int64_t num_owners;
};

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
    return std::max(value, SMALLEST);
}

INLINE uint8_t level(float value) { return uint8_t(int32_t(value) + ZERO); }

// Returns whether the levels of the row are few.
bool quantize_row(const float* row, uint8_t* levels, float* scale, int64_t length) {
    const float largest = largest_magnitude(row, length), levels_per_unit = 1.0f / largest * float(HIGHEST);
    int64_t sum_of_squares = 0;
    for (int64_t begin = 0; begin < length; begin += SUMMED_IN_32_BITS) {
        const int64_t end = std::min(length, begin + SUMMED_IN_32_BITS);
        int32_t sum = 0;
        for (int64_t i = begin; i < end; ++i) {
            const float rounded = std::nearbyint(row[i] * levels_per_unit);
            levels[i] = level(rounded);
            sum += int32_t(rounded) * int32_t(rounded);
        }
        sum_of_squares += sum;
    }
    *scale = largest / float(HIGHEST);
    return sum_of_squares * COARSE * COARSE < length * HIGHEST * HIGHEST;
}

void quantize_rest(const float* row, uint8_t* levels, int64_t length) {
    const float levels_per_unit = 1.0f / largest_magnitude(row, length) * float(HIGHEST);
    for (int64_t i = 0; i < length; ++i) {
        const float exact = row[i] * levels_per_unit;
        levels[i] = level(std::nearbyint((exact - std::nearbyint(exact)) * float(2 * HIGHEST)));
    }
}

void quantize(Int8Linear& linear) {
    const bool on_all = linear.num_rows * linear.num_inputs >= WORTH_ALL_THREADS;
    const int64_t stride = linear.num_units * 4;
    for_each_task(linear.num_rows, on_all, [&](int64_t row) {
        linear.owners[row] = quantize_row(linear.input + row * linear.num_inputs, linear.levels + row * stride,
                                          linear.row_scales + row, linear.num_inputs);
    });
    for (int64_t row = 0; row < linear.num_rows; ++row) {
        if (linear.owners[row]) linear.owners[linear.num_owners++] = row;
    }
    for_each_task(linear.num_owners, on_all, [&](int64_t rest) {
        quantize_rest(linear.input + linear.owners[rest] * linear.num_inputs,
                      linear.levels + (linear.num_rows + rest) * stride, linear.num_inputs);
    });
}

// Of a row of levels, which may be a second one: what it adds to its row's outputs.
INLINE void dequantize(const Int8Linear& linear, const int32_t* sums, int64_t row, int64_t output, int64_t width) {
    const bool is_rest = row >= linear.num_rows;
    const int64_t owner = is_rest ? linear.owners[row - linear.num_rows] : row;
    const float scale = is_rest ? linear.row_scales[owner] / float(2 * HIGHEST) : linear.row_scales[owner];
    float* out = linear.out + owner * linear.num_outputs + output;
    const float* before = is_rest ? out : linear.bias ? linear.bias + output : ZEROS;
    for_each_of_panel(width, [&](int64_t o) INLINE_LAMBDA {
        out[o] = before[o] + float(sums[o] - linear.zero_sums[output + o]) * linear.scales[output + o] * scale;
    });
}

void pass(const Int8Linear& linear, int64_t panel, int64_t first, int64_t count, int64_t next) {
    alignas(64) int32_t sums[MOST_ROWS * PANEL];
    std::fill(sums, sums + count * PANEL, 0);
    const int64_t size = PANEL * linear.num_units, output = panel * PANEL;
    const auto* units = reinterpret_cast<const int32_t*>(linear.levels) + first * linear.num_units;
    add_panel<Int8Arithmetic>(units, count, linear.num_units, linear.weights + panel * size,
                              linear.weights + next * size, sums);
    for (int64_t row = 0; row < count; ++row) {
        dequantize(linear, sums + row * PANEL, first + row, output, std::min(PANEL, linear.num_outputs - output));
    }
}

}  // namespace

extern "C" {

int rhapsode_int8_is_fast() {
    return __builtin_cpu_supports("x86-64-v4") && __builtin_cpu_supports("avx512vnni");
}

// input [R, I]; weights [panels, U, 64, 4], filled up with zeros, with scales [O]; zero_sums [O], 128 times the sum of
// each output's weights; bias [O] or null; out [R, O].
void rhapsode_int8_linear(const float* input, const int32_t* weights, const float* scales, const int32_t* zero_sums,
                          const float* bias, float* out, int64_t num_rows, int64_t num_inputs, int64_t num_outputs) {
    const int64_t num_units = (num_inputs + 3) / 4;
    // What fills up a row of levels meets weights of zero; there is room for a second row for each.
    const std::unique_ptr<uint8_t[]> levels(new uint8_t[2 * num_rows * num_units * 4]);
    const std::unique_ptr<float[]> row_scales(new float[num_rows]);
    const std::unique_ptr<int64_t[]> owners(new int64_t[num_rows]);
    Int8Linear linear{input,    weights,    scales,      zero_sums, bias,         out,
                      num_rows, num_inputs, num_outputs, num_units, levels.get(), row_scales.get(),
                      owners.get(), 0};
    quantize(linear);
    const int64_t all_rows = num_rows + linear.num_owners;
    for_each_task_knowing_next(num_panels(num_outputs), true, [&](int64_t panel, int64_t panel_after) {
        for (int64_t first = 0; first < all_rows; first += MOST_ROWS) {
            const int64_t count = std::min(MOST_ROWS, all_rows - first);
            pass(linear, panel, first, count, first + count < all_rows ? panel : panel_after);
        }
    });
}
}
#else
extern "C" int rhapsode_int8_is_fast() { return 0; }
#endif
