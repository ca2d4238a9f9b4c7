/* The products behind the double's plans. Each element of a product is summed over `inner` in order, in
 * float or in double, so that its bits depend on its own row and column alone. */
#include "tests/gpu_double/engine.h"

#include <string.h>

static const int64_t LANES = 8, PANEL = 2 * LANES, ROWS = 4;
typedef float Lanes __attribute__((vector_size(LANES * sizeof(float))));

/* Columns [first, first + PANEL) of b, one after another by row; what b has not is zero. */
static void pack_panel(float *panel, const float *b, int64_t inner, int64_t columns,
                       int64_t first) {
    int64_t width = columns - first < PANEL ? columns - first : PANEL;
    memset(panel, 0, (size_t)inner * PANEL * sizeof(float));
    for (int64_t k = 0; k < inner; k++)
        memcpy(panel + k * PANEL, b + k * columns + first, (size_t)width * sizeof(float));
}

static void put(float *out, const float *sums, int64_t width, bool add) {
    for (int64_t j = 0; j < width; j++)
        out[j] = add ? out[j] + sums[j] : sums[j];
}

/* `rows` ≤ ROWS rows of a times one panel, in float. */
static void tile(float *out, const float *a, const float *panel, int64_t rows,
                 int64_t columns, int64_t inner, int64_t width, bool add) {
    Lanes sums[ROWS][2] = {};
    for (int64_t k = 0; k < inner; k++) {
        Lanes left, right;
        memcpy(&left, panel + k * PANEL, sizeof left);
        memcpy(&right, panel + k * PANEL + LANES, sizeof right);
        for (int64_t i = 0; i < ROWS; i++) {
            float value = a[(i < rows ? i : 0) * inner + k];
            sums[i][0] += value * left;
            sums[i][1] += value * right;
        }
    }
    for (int64_t i = 0; i < rows; i++) {
        float line[PANEL];
        memcpy(line, sums[i], sizeof line);
        put(out + i * columns, line, width, add);
    }
}

static void tile_wide(float *out, const float *a, const float *panel, int64_t rows,
                      int64_t columns, int64_t inner, int64_t width, bool add) {
    for (int64_t i = 0; i < rows; i++) {
        double sums[PANEL] = {};
        for (int64_t k = 0; k < inner; k++)
            for (int64_t j = 0; j < PANEL; j++)
                sums[j] += (double)a[i * inner + k] * (double)panel[k * PANEL + j];
        float line[PANEL];
        for (int64_t j = 0; j < PANEL; j++)
            line[j] = (float)sums[j];
        put(out + i * columns, line, width, add);
    }
}

void arithmetic_multiply(float *out, const float *a, const float *b, int64_t rows,
                         int64_t columns, int64_t inner, bool wide, bool add) {
    std::vector<float> panel((size_t)inner * PANEL);
    for (int64_t j = 0; j < columns; j += PANEL) {
        int64_t width = columns - j < PANEL ? columns - j : PANEL;
        pack_panel(panel.data(), b, inner, columns, j);
        for (int64_t i = 0; i < rows; i += ROWS) {
            int64_t count = rows - i < ROWS ? rows - i : ROWS;
            (wide ? tile_wide : tile)(out + i * columns + j, a + i * inner, panel.data(),
                                      count, columns, inner, width, add);
        }
    }
}

/* out (columns × rows) = a (rows × columns) transposed. */
static std::vector<float> transposed(const float *a, int64_t rows, int64_t columns) {
    std::vector<float> out((size_t)(rows * columns));
    for (int64_t i = 0; i < rows; i++)
        for (int64_t j = 0; j < columns; j++)
            out[(size_t)(j * rows + i)] = a[i * columns + j];
    return out;
}

void arithmetic_gemm(const VendorGemm &gemm, float *out, const float *a, const float *b,
                     bool wide) {
    std::vector<float> a_rows, b_rows;
    if (gemm.transpose_a) a = (a_rows = transposed(a, gemm.inner, gemm.rows)).data();
    if (gemm.transpose_b) b = (b_rows = transposed(b, gemm.columns, gemm.inner)).data();
    arithmetic_multiply(out, a, b, gemm.rows, gemm.columns, gemm.inner, wide, false);
}

/* ---- convolution: a product per image and group, over its windows laid out as rows */

namespace {
struct Windows {
    int64_t c, h, w, m, r, s, rows, columns; /* x, w, and y's height and width */
    int64_t stride, padding, depth, group_m; /* channels of a group on either side */
    int64_t length() const {
        return r * s * depth;
    }
    int64_t count() const {
        return rows * columns;
    }
};

Windows windows_of(const VendorConvolution &p) {
    Windows e;
    e.c = p.c, e.h = p.h, e.w = p.w, e.m = p.m, e.r = p.r, e.s = p.s;
    e.rows = (p.h + 2 * p.padding - p.r) / p.stride + 1;
    e.columns = (p.w + 2 * p.padding - p.s) / p.stride + 1;
    e.stride = p.stride, e.padding = p.padding;
    e.depth = p.c / p.groups, e.group_m = p.m / p.groups;
    return e;
}

/* Calls each(window's piece, x's piece or nullptr): `depth` floats for each filter position. */
template <class Each>
void for_each_piece(const Windows &e, float *windows, float *x, int64_t group, Each each) {
    for (int64_t i = 0; i < e.rows; i++)
        for (int64_t j = 0; j < e.columns; j++)
            for (int64_t r = 0; r < e.r; r++)
                for (int64_t s = 0; s < e.s; s++) {
                    int64_t row = i * e.stride + r - e.padding;
                    int64_t column = j * e.stride + s - e.padding;
                    bool inside = row >= 0 && row < e.h && column >= 0 && column < e.w;
                    float *at = x + (row * e.w + column) * e.c + group * e.depth;
                    each(windows, inside ? at : nullptr);
                    windows += e.depth;
                }
}

void gather(const Windows &e, float *windows, const float *x, int64_t group) {
    size_t bytes = (size_t)e.depth * sizeof(float);
    for_each_piece(e, windows, const_cast<float *>(x), group, [=](float *piece, float *at) {
        if (at != nullptr)
            memcpy(piece, at, bytes);
        else
            memset(piece, 0, bytes);
    });
}

void scatter_add(const Windows &e, float *windows, float *x, int64_t group) {
    for_each_piece(e, windows, x, group, [&](float *piece, float *at) {
        if (at == nullptr) return;
        for (int64_t k = 0; k < e.depth; k++)
            at[k] += piece[k];
    });
}

/* A group's channels of y (count × m), or the other way round. */
void group_channels(const Windows &e, float *part, float *y, int64_t group, bool put_back) {
    for (int64_t i = 0; i < e.count(); i++) {
        float *at = y + i * e.m + group * e.group_m, *its = part + i * e.group_m;
        memcpy(put_back ? at : its, put_back ? its : at, (size_t)e.group_m * sizeof(float));
    }
}
} // namespace

void arithmetic_convolution(const VendorConvolution &p, float *out, const float *a,
                            const float *b, bool wide) {
    Windows e = windows_of(p);
    int64_t x_size = p.h * p.w * p.c, y_size = e.count() * p.m;
    int64_t group_w = e.group_m * e.length();
    std::vector<float> windows((size_t)(e.count() * e.length()));
    std::vector<float> part((size_t)(e.count() * e.group_m));
    int64_t out_size = p.direction == VENDOR_FORWARD         ? p.n * y_size
                       : p.direction == VENDOR_BACKWARD_DATA ? p.n * x_size
                                                             : p.groups * group_w;
    memset(out, 0, (size_t)out_size * sizeof(float));
    for (int64_t group = 0; group < p.groups; group++) {
        std::vector<float> turned;
        if (p.direction == VENDOR_FORWARD)
            turned = transposed(b + group * group_w, e.group_m, e.length());
        for (int64_t n = 0; n < p.n; n++) {
            switch (p.direction) {
            case VENDOR_FORWARD:
                gather(e, windows.data(), a + n * x_size, group);
                arithmetic_multiply(part.data(), windows.data(), turned.data(), e.count(),
                                    e.group_m, e.length(), wide, false);
                group_channels(e, part.data(), out + n * y_size, group, true);
                break;
            case VENDOR_BACKWARD_DATA:
                group_channels(e, part.data(), const_cast<float *>(a) + n * y_size, group,
                               false);
                arithmetic_multiply(windows.data(), part.data(), b + group * group_w,
                                    e.count(), e.length(), e.group_m, wide, false);
                scatter_add(e, windows.data(), out + n * x_size, group);
                break;
            case VENDOR_BACKWARD_WEIGHTS:
                gather(e, windows.data(), a + n * x_size, group);
                group_channels(e, part.data(), const_cast<float *>(b) + n * y_size, group,
                               false);
                turned = transposed(part.data(), e.count(), e.group_m);
                arithmetic_multiply(out + group * group_w, turned.data(), windows.data(),
                                    e.group_m, e.length(), e.count(), wide, true);
                break;
            }
        }
    }
}
