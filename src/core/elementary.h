/* Elementary functions of our own, for all arithmetic whose bits a run keeps: libm's results change
 * with its version and with the processor that it finds, these do not.
 *
 * Only + − · /, fused multiply-add and integer operations, each exactly rounded by IEEE 754, in a
 * written order: the same bits in scalar and vector code, in C and C++, on every device. No branches,
 * so that loops over them vectorise; no tables; nothing to initialise. Arguments are reduced in two
 * or three steps with fma (Cody and Waite, 1980); polynomials are near-minimax fits of our own
 * (Remez's exchange in 240 bits), rounded to the working precision. The bounds stated here are
 * those that tests/ops/test_elementary.c measures against libm.
 *
 * Errors:  none are raised; out of domain gives NaN, NaN gives NaN, overflow gives infinity,
 *          subnormal arguments and results are exact or rounded as others are */
#pragma once

#include <stdint.h>
#include <string.h>

/* A .cu file sets this to its own qualifiers before it includes the header. */
#ifndef ELEMENT_FUNCTION
#define ELEMENT_FUNCTION static inline
#endif

/* ---- bits */

ELEMENT_FUNCTION uint32_t element_bits(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

ELEMENT_FUNCTION float element_from_bits(uint32_t bits) {
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

ELEMENT_FUNCTION uint64_t element_bits64(double x) {
    uint64_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

ELEMENT_FUNCTION double element_from_bits64(uint64_t bits) {
    double x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

ELEMENT_FUNCTION float element_abs(float x) {
    return element_from_bits(element_bits(x) & 0x7fffffffu);
}

/* |magnitude| with the sign of `sign`. */
ELEMENT_FUNCTION float element_with_sign(float magnitude, float sign) {
    return element_from_bits((element_bits(magnitude) & 0x7fffffffu) |
                             (element_bits(sign) & 0x80000000u));
}

/* ---- float */

/* e^x, at most 2 ulp. x = n·ln 2 + r, |r| ≤ ln 2 / 2; e^r = 1 + r + r²·q(r). The power of two is
 * applied in two halves, so that overflow and subnormal results round once, at the end. */
ELEMENT_FUNCTION float element_exp(float x) {
    const float shift = 0x1.8p23f; /* added: the sum's low bits are the nearest integer */
    x = x > 89.0f ? 89.0f : x;     /* infinity beyond 88.73 */
    x = x < -104.5f ? -104.5f : x; /* zero below −103.98 */
    float shifted = __builtin_fmaf(x, 0x1.715476p+0f, shift);
    float n = shifted - shift;
    uint32_t k = element_bits(shifted) - element_bits(shift) + 256u;
    float r = __builtin_fmaf(n, -0x1.62e43p-1f, x);
    r = __builtin_fmaf(n, 0x1.05c61p-29f, r);
    float q = 0x1.6db4d4p-10f;
    q = __builtin_fmaf(q, r, 0x1.123b56p-7f);
    q = __builtin_fmaf(q, r, 0x1.55545cp-5f);
    q = __builtin_fmaf(q, r, 0x1.55548ep-3f);
    q = __builtin_fmaf(q, r, 0.5f);
    float p = __builtin_fmaf(r * r, q, r) + 1.0f;
    uint32_t half = k >> 1;
    return p * element_from_bits((half - 1u) << 23) *
           element_from_bits((k - half - 1u) << 23);
}

/* Natural logarithm, at most 2 ulp. x = 2^e · m, m in [√½, √2); log m = f − f²/2 + f³·P(f) with
 * f = m − 1. −infinity at ±0, NaN below. */
ELEMENT_FUNCTION float element_log(float x) {
    const uint32_t root_half = 0x3f3504f3u;
    float scaled = x < 0x1p-126f ? x * 0x1p23f : x;
    float offset = x < 0x1p-126f ? -23.0f : 0.0f;
    uint32_t above = element_bits(scaled) - root_half;
    float e = (float)((int32_t)above >> 23) + offset;
    float f = element_from_bits((above & 0x7fffffu) + root_half) - 1.0f;
    float p = 0x1.14619cp-4f;
    p = __builtin_fmaf(p, f, -0x1.de4164p-4f);
    p = __builtin_fmaf(p, f, 0x1.e6eea8p-4f);
    p = __builtin_fmaf(p, f, -0x1.fc2118p-4f);
    p = __builtin_fmaf(p, f, 0x1.23377cp-3f);
    p = __builtin_fmaf(p, f, -0x1.555c54p-3f);
    p = __builtin_fmaf(p, f, 0x1.99a4b4p-3f);
    p = __builtin_fmaf(p, f, -0x1.000006p-2f);
    p = __builtin_fmaf(p, f, 0x1.555548p-2f);
    float r = __builtin_fmaf(f * f, __builtin_fmaf(p, f, -0.5f), f);
    r = __builtin_fmaf(e, -0x1.05c61p-29f, r);
    r = __builtin_fmaf(e, 0x1.62e43p-1f, r);
    r = x == 0.0f ? element_from_bits(0xff800000u) : r;
    r = x > 0x1.fffffep127f ? x : r;
    return x >= 0.0f ? r : element_from_bits(0x7fc00000u); /* NaN compares false */
}

/* At most 2 ulp. Below 0.625 an odd polynomial, above 1 − 2/(e^2x + 1). */
ELEMENT_FUNCTION float element_tanh(float x) {
    float a = element_abs(x);
    float u = a * a;
    float p = 0x1.197cf6p-9f;
    p = __builtin_fmaf(p, u, -0x1.0c2212p-7f);
    p = __builtin_fmaf(p, u, 0x1.63951cp-6f);
    p = __builtin_fmaf(p, u, -0x1.b9ef86p-5f);
    p = __builtin_fmaf(p, u, 0x1.11106cp-3f);
    p = __builtin_fmaf(p, u, -0x1.555554p-2f);
    float small = __builtin_fmaf(a * u, p, a);
    float large = 1.0f - 2.0f / (element_exp(2.0f * a) + 1.0f);
    return element_with_sign(a < 0.625f ? small : large, x);
}

/* Error function, at most 3 ulp. Below 1 an odd polynomial, above 1 − e^−P(x). */
ELEMENT_FUNCTION float element_erf(float x) {
    float a = element_abs(x);
    float u = a * a;
    float p = 0x1.4ae4c6p-14f;
    p = __builtin_fmaf(p, u, -0x1.a485f8p-11f);
    p = __builtin_fmaf(p, u, 0x1.5419fap-8f);
    p = __builtin_fmaf(p, u, -0x1.b7fbb6p-6f);
    p = __builtin_fmaf(p, u, 0x1.ce2d2p-4f);
    p = __builtin_fmaf(p, u, -0x1.81273ep-2f);
    p = __builtin_fmaf(p, u, 0x1.06eba8p-3f);
    float small = __builtin_fmaf(a, p, a);
    float b = a > 3.95f ? 3.95f : a; /* 1 in float from 3.92 on */
    float q = 0x1.6991e2p-16f;
    q = __builtin_fmaf(q, b, -0x1.cd1fb6p-12f);
    q = __builtin_fmaf(q, b, 0x1.130c1p-8f);
    q = __builtin_fmaf(q, b, -0x1.9cad9cp-6f);
    q = __builtin_fmaf(q, b, 0x1.bbf3bcp-4f);
    q = __builtin_fmaf(q, b, 0x1.44393cp-1f);
    q = __builtin_fmaf(q, b, 0x1.212b16p+0f);
    q = __builtin_fmaf(q, b, -0x1.83d638p-13f);
    float large = 1.0f - element_exp(-q);
    return element_with_sign(a < 1.0f ? small : large, x);
}

/* sin and cos of r + quarters·π/2, |r| ≤ π/4 (a little more is harmless), in double with
 * polynomials good for float: sin r = r + r³·S(r²), cos r = 1 − r²/2 + r⁴·C(r²). */
ELEMENT_FUNCTION float element_sin_quarter(double r, uint64_t quarters) {
    double u = r * r;
    double s = 0x1.6cd5f0047fe8fp-19;
    s = __builtin_fma(s, u, -0x1.a00f93c099f7dp-13);
    s = __builtin_fma(s, u, 0x1.1111088a5b053p-7);
    s = __builtin_fma(s, u, -0x1.5555554caa3e3p-3);
    double sine = r * __builtin_fma(s, u, 1.0);
    double c = -0x1.24290b82a95ddp-22;
    c = __builtin_fma(c, u, 0x1.a011179c1d02ap-16);
    c = __builtin_fma(c, u, -0x1.6c16b88c10ac2p-10);
    c = __builtin_fma(c, u, 0x1.5555554f42b12p-5);
    c = __builtin_fma(c, u, -0.5);
    double cosine = __builtin_fma(c, u, 1.0);
    double value = (quarters & 1u) != 0 ? cosine : sine;
    return (float)((quarters & 2u) != 0 ? -value : value);
}

/* sin(x + quarters·π/2). Angles beyond 2^30 give NaN, as infinity does: nothing in training means
 * one, and a silent wrong answer would be worse. */
ELEMENT_FUNCTION float element_sin_of(float x, uint64_t quarters) {
    const double shift = 0x1.8p52;
    float a = element_abs(x);
    double angle = a <= 0x1p30f ? x : element_from_bits(0x7fc00000u);
    double shifted = __builtin_fma(angle, 0x1.45f306dc9c883p-1, shift);
    double n = shifted - shift;
    double r = __builtin_fma(-n, 0x1.921fb54442d18p+0, angle);
    r = __builtin_fma(-n, 0x1.1a62633145c07p-54, r);
    return element_sin_quarter(r, element_bits64(shifted) + quarters);
}

/* At most 1 ulp for |x| ≤ 2^30, NaN beyond. */
ELEMENT_FUNCTION float element_sin(float x) {
    return element_sin_of(x, 0);
}

ELEMENT_FUNCTION float element_cos(float x) {
    return element_sin_of(x, 1);
}

/* ---- double */

/* A number as an unevaluated sum: hi carries it, lo what hi could not. */
typedef struct {
    double hi, lo;
} ElementPair;

/* log x to about 2^-59 of its value. x = 2^e·m as in element_log; with s = (m − 1)/(m + 1),
 * log m = 2s + s³·P(s²); the quotient's own rounding error is carried along. */
ELEMENT_FUNCTION ElementPair element_log_pair64(double x) {
    const uint64_t root_half = 0x3fe6a09e667f3bcdu;
    double scaled = x < 0x1p-1022 ? x * 0x1p54 : x;
    double offset = x < 0x1p-1022 ? -54.0 : 0.0;
    uint64_t above = element_bits64(scaled) - root_half;
    double e = (double)((int64_t)above >> 52) + offset;
    double m = element_from_bits64((above & 0xfffffffffffffu) + root_half);
    double d = m + 1.0, d_lo = m - (d - 1.0);
    double f = m - 1.0;
    double s = f / d;
    double s_lo = (__builtin_fma(-s, d, f) - s * d_lo) / d;
    double u = s * s;
    double p = 0x1.ece96699652c5p-4;
    p = __builtin_fma(p, u, 0x1.ddf2cbba62f0ap-4);
    p = __builtin_fma(p, u, 0x1.11228ff88bbadp-3);
    p = __builtin_fma(p, u, 0x1.3b1353f46b82cp-3);
    p = __builtin_fma(p, u, 0x1.745d187759babp-3);
    p = __builtin_fma(p, u, 0x1.c71c71c4c0f06p-3);
    p = __builtin_fma(p, u, 0x1.24924924939a0p-2);
    p = __builtin_fma(p, u, 0x1.999999999998ep-2);
    p = __builtin_fma(p, u, 0x1.5555555555555p-1);
    double lo = __builtin_fma(s * u, p, 2.0 * s_lo);
    double power = e * 0x1.62e42fefa39efp-1;
    double power_lo = __builtin_fma(e, 0x1.abc9e3b39803fp-56,
                                    __builtin_fma(e, 0x1.62e42fefa39efp-1, -power));
    double sum =
        power + 2.0 * s; /* exact with its error, whichever is larger (Knuth's two-sum) */
    double part = sum - power;
    double error = (power - (sum - part)) + (2.0 * s - part);
    double rest = error + (power_lo + lo);
    double hi = sum + rest;
    ElementPair log = {hi, rest - (hi - sum)};
    log.hi = x == 0.0 ? element_from_bits64(0xfff0000000000000u) : log.hi;
    log.hi = x > 0x1.fffffffffffffp1023 ? x : log.hi;
    log.hi = x >= 0.0 ? log.hi : element_from_bits64(0x7ff8000000000000u);
    log.lo = x > 0.0 && x <= 0x1.fffffffffffffp1023 ? log.lo : 0.0;
    return log;
}

/* e^(hi + lo), |lo| far below |hi|: as element_exp, at most 1 ulp. */
ELEMENT_FUNCTION double element_exp_pair64(double hi, double lo) {
    const double shift = 0x1.8p52;
    lo = hi > 710.0 || hi < -746.0 ? 0.0 : lo;
    hi = hi > 710.0 ? 710.0 : hi;
    hi = hi < -746.0 ? -746.0 : hi;
    double shifted = __builtin_fma(hi, 0x1.71547652b82fep+0, shift);
    double n = shifted - shift;
    uint64_t k = element_bits64(shifted) - element_bits64(shift) + 2048u;
    double near = __builtin_fma(n, -0x1.62e42fefa39efp-1, hi);
    double far = __builtin_fma(n, -0x1.abc9e3b39803fp-56, lo);
    double r = near + far;
    double r_lo = (near - r) + far;
    double q = 0x1.1f9de2242dc64p-29;
    q = __builtin_fma(q, r, 0x1.af6ccc4f95308p-26);
    q = __builtin_fma(q, r, 0x1.27e4bf35670dbp-22);
    q = __builtin_fma(q, r, 0x1.71ddef945af7dp-19);
    q = __builtin_fma(q, r, 0x1.a01a01b454af7p-16);
    q = __builtin_fma(q, r, 0x1.a01a01b3bac4ap-13);
    q = __builtin_fma(q, r, 0x1.6c16c16c1358dp-10);
    q = __builtin_fma(q, r, 0x1.111111110ebb4p-7);
    q = __builtin_fma(q, r, 0x1.555555555555ep-5);
    q = __builtin_fma(q, r, 0x1.555555555555cp-3);
    q = __builtin_fma(q, r, 0.5);
    double p = 1.0 + (r + __builtin_fma(r * r, q, r_lo));
    uint64_t half = k >> 1;
    return p * element_from_bits64((half - 1u) << 52) *
           element_from_bits64((k - half - 1u) << 52);
}

/* At most 1 ulp. */
ELEMENT_FUNCTION double element_exp64(double x) {
    return element_exp_pair64(x, 0.0);
}

/* At most 1 ulp. */
ELEMENT_FUNCTION double element_log64(double x) {
    return element_log_pair64(x).hi;
}

/* At most 2 ulp for |x| ≤ 2^30, NaN beyond. */
ELEMENT_FUNCTION double element_cos64(double x) {
    const double shift = 0x1.8p52;
    double a = element_from_bits64(element_bits64(x) & 0x7fffffffffffffffu);
    double angle = a <= 0x1p30 ? x : element_from_bits64(0x7ff8000000000000u);
    double shifted = __builtin_fma(angle, 0x1.45f306dc9c883p-1, shift);
    double n = shifted - shift;
    double r = __builtin_fma(-n, 0x1.921fb54442d18p+0, angle);
    r = __builtin_fma(-n, 0x1.1a62633145c07p-54, r);
    r = __builtin_fma(-n, -0x1.f1976b7ed8fbcp-110, r);
    double u = r * r;
    double s = -0x1.aaa3a75b3c69dp-41;
    s = __builtin_fma(s, u, 0x1.61208f92e2270p-33);
    s = __builtin_fma(s, u, -0x1.ae64529396fcfp-26);
    s = __builtin_fma(s, u, 0x1.71de3a53360adp-19);
    s = __builtin_fma(s, u, -0x1.a01a01a018abcp-13);
    s = __builtin_fma(s, u, 0x1.111111111110bp-7);
    s = __builtin_fma(s, u, -0x1.5555555555555p-3);
    double sine = __builtin_fma(r * u, s, r);
    double c = -0x1.8face1ac1f920p-37;
    c = __builtin_fma(c, u, 0x1.1ee9e8b412518p-29);
    c = __builtin_fma(c, u, -0x1.27e4f8056ef8bp-22);
    c = __builtin_fma(c, u, 0x1.a01a019cabd3fp-16);
    c = __builtin_fma(c, u, -0x1.6c16c16c15145p-10);
    c = __builtin_fma(c, u, 0x1.555555555554cp-5);
    c = __builtin_fma(c, u, -0.5);
    double cosine = __builtin_fma(c, u, 1.0);
    uint64_t quarters = element_bits64(shifted) + 1u;
    double value = (quarters & 1u) != 0 ? cosine : sine;
    return (quarters & 2u) != 0 ? -value : value;
}

/* x^y with the special values of C's pow; at most 2 ulp while the result lies in
 * [2^-200, 2^200] (the error grows with |y·log x|). */
ELEMENT_FUNCTION double element_pow64(double x, double y) {
    const double infinity = element_from_bits64(0x7ff0000000000000u);
    double a = element_from_bits64(element_bits64(x) & 0x7fffffffffffffffu);
    ElementPair log = element_log_pair64(a);
    double hi = y * log.hi;
    double lo = __builtin_fma(y, log.lo, __builtin_fma(y, log.hi, -hi));
    double power = element_exp_pair64(hi, lo);
    power = a == 1.0 && y == y ? 1.0 : power;
    double half = y * 0.5;
    int whole = __builtin_floor(y) == y;
    int odd = whole && __builtin_floor(half) != half;
    uint64_t sign = odd ? element_bits64(x) & 0x8000000000000000u : 0u;
    power = element_from_bits64(element_bits64(power) | sign);
    power = x < 0.0 && x > -infinity && !whole ? element_from_bits64(0x7ff8000000000000u)
                                               : power;
    return x == 1.0 || y == 0.0 ? 1.0 : power;
}

/* At most 1 ulp: computed in double and rounded. */
ELEMENT_FUNCTION float element_pow(float x, float y) {
    return (float)element_pow64(x, y);
}

/* base^n for n ≥ 0 by repeated squaring; the relative error is at most n·2^-52. */
ELEMENT_FUNCTION double element_pow_int(double base, int64_t n) {
    double power = 1.0;
    for (; n > 0; n /= 2) {
        if (n % 2 != 0) power *= base;
        base *= base;
    }
    return power;
}
