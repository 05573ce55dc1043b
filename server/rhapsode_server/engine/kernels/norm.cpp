// Layer norm and RMS norm, each row by itself.
//
// R rows, I inputs.

#include <algorithm>
#include <cmath>

#include "simd.h"

using namespace rhapsode;

namespace {

constexpr int64_t WORTH_ALL_THREADS = 64 * 1024;  // floats

struct Norm {
    const float *input, *weight, *bias;
    float* out;
    int64_t num_inputs;
    float epsilon;
    bool is_centred;
};

// The sum over a row of each(x), where what is missing in the last vector counts nothing.
template <class Each>
INLINE float sum_of(const float* row, int64_t length, const Each& each) {
    Floats total{};
    int64_t i = 0;
    for (; i + LANES <= length; i += LANES) total += each(load(row + i));
    float rest = 0;
    for (; i < length; ++i) rest += each(all(row[i]))[0];
    return sum(total) + rest;
}

CLONES void norm_row(const Norm& norm, int64_t row) {
    const int64_t length = norm.num_inputs;
    const float* input = norm.input + row * length;
    float* out = norm.out + row * length;
    const float mean = norm.is_centred ? sum_of(input, length, [](Floats x) INLINE_LAMBDA { return x; }) / length : 0;
    const auto square = [mean](Floats x) INLINE_LAMBDA { return (x - mean) * (x - mean); };
    const float scale = 1.0f / std::sqrt(sum_of(input, length, square) / length + norm.epsilon);
    if (norm.bias) {
#pragma GCC ivdep
        for (int64_t i = 0; i < length; ++i) out[i] = (input[i] - mean) * scale * norm.weight[i] + norm.bias[i];
    } else {
#pragma GCC ivdep
        for (int64_t i = 0; i < length; ++i) out[i] = (input[i] - mean) * scale * norm.weight[i];
    }
}

}  // namespace

// input [R, I], weight [I], bias [I] or null; out [R, I]. Of rows that are not centred the mean is taken for zero.
extern "C" void rhapsode_norm(const float* input, const float* weight, const float* bias, float* out, int64_t num_rows,
                              int64_t num_inputs, float epsilon, int is_centred) {
    const Norm norm{input, weight, bias, out, num_inputs, epsilon, is_centred != 0};
    for_each_task(num_rows, num_rows * num_inputs >= WORTH_ALL_THREADS, [&](int64_t row) { norm_row(norm, row); });
}
