// Sixteen floats at a time, as GCC's vector extensions: each CLONE gets the registers that its machine has.
#pragma once

#include <cstdint>
#include <cstring>

#include "parallel.h"

namespace rhapsode {

constexpr int64_t LANES = 16;
typedef float Floats __attribute__((vector_size(64)));
typedef float Quarter __attribute__((vector_size(16)));
typedef int32_t Ints __attribute__((vector_size(64)));

INLINE Floats load(const float* from) {
    Floats value;
    std::memcpy(&value, from, sizeof value);
    return value;
}

INLINE void store(float* to, Floats value) { std::memcpy(to, &value, sizeof value); }

INLINE Floats all(float value) { return value - Floats{}; }

INLINE float sum(Floats value) {
    typedef float Half __attribute__((vector_size(32)));
    Half halves[2];
    std::memcpy(halves, &value, sizeof value);
    const Half half = halves[0] + halves[1];
    Quarter quarters[2];
    std::memcpy(quarters, &half, sizeof half);
    const Quarter quarter = quarters[0] + quarters[1];
    return (quarter[0] + quarter[2]) + (quarter[1] + quarter[3]);
}

// The sums of four vectors, each added up in the same order: with one they cost what one does.
INLINE Quarter sums(const Floats (&of)[4]) {
    const auto neighbours = [](Floats a, Floats b) {  // a0+a1, b0+b1, a2+a3, b2+b3, ...
        return __builtin_shufflevector(a, b, 0, 16, 2, 18, 4, 20, 6, 22, 8, 24, 10, 26, 12, 28, 14, 30) +
               __builtin_shufflevector(a, b, 1, 17, 3, 19, 5, 21, 7, 23, 9, 25, 11, 27, 13, 29, 15, 31);
    };
    const Floats a = neighbours(of[0], of[1]), b = neighbours(of[2], of[3]);
    const Floats fours = __builtin_shufflevector(a, b, 0, 1, 16, 17, 4, 5, 20, 21, 8, 9, 24, 25, 12, 13, 28, 29) +
                         __builtin_shufflevector(a, b, 2, 3, 18, 19, 6, 7, 22, 23, 10, 11, 26, 27, 14, 15, 30, 31);
    Quarter parts[4];
    std::memcpy(parts, &fours, sizeof fours);
    return (parts[0] + parts[1]) + (parts[2] + parts[3]);
}

// 2^n and e^r - 1 with x = n ln 2 + r, |r| <= ln(2)/2: what both e^x and e^x - 1 are made of without loss.
struct Power {
    Floats two_to_n;
    Floats rest;
};

INLINE Power power(Floats x) {
    const Floats magic = all(12582912.0f);  // 1.5 * 2^23: adding it rounds to a whole number
    const Floats shifted = x * 1.44269504f + magic;
    const Floats n = shifted - magic;
    const Floats r = (x - n * 0.693359375f) + n * 2.12194440e-4f;  // ln 2 in two parts, the first of few digits
    Floats series = all(1.0f / 5040);
    series = series * r + 1.0f / 720;
    series = series * r + 1.0f / 120;
    series = series * r + 1.0f / 24;
    series = series * r + 1.0f / 6;
    series = series * r + 0.5f;
    const Ints exponent = (Ints)shifted - (Ints)magic + 127;
    return {(Floats)(exponent << 23), r + r * r * series};
}

// e^x for x <= 0, at worst 2 units in the last place from it; 0 where that is below the normal floats; NaN for NaN.
INLINE Floats exp_of_negative(Floats x) {
    const Floats bounded = x < -87.0f ? all(-87.0f) : x;
    const Power p = power(bounded);
    const Floats value = p.two_to_n + p.two_to_n * p.rest;
    return x < -87.0f ? Floats{} : value;
}

INLINE Floats tanh(Floats x) {
    const Floats low = x < -9.5f ? all(-9.5f) : x;  // beyond, tanh is 1 in float32
    const Floats bounded = low > 9.5f ? all(9.5f) : low;
    const Power p = power(bounded + bounded);
    const Floats exp_minus_1 = (p.two_to_n - 1.0f) + p.two_to_n * p.rest;
    return exp_minus_1 / (exp_minus_1 + 2.0f);
}

}  // namespace rhapsode
