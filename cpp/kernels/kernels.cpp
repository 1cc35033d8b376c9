// The instantiations and the table: the only symbol that this object exports. Compiled once per instruction set.
// The lists of types here, and stored.hpp, are what a new dtype changes.
#include "kernels.hpp"

#include "copy.hpp"
#include "epilogue.hpp"
#include "gradients.hpp"
#include "joint_cols.hpp"
#include "joint_rows.hpp"
#include "moments_cols.hpp"
#include "moments_rows.hpp"
#include "normalize.hpp"
#include "row_gradients.hpp"
#include "sums.hpp"

namespace fusednorm::FUSEDNORM_ISA_NAME {

#define FUSEDNORM_TEXT_(a) #a
#define FUSEDNORM_TEXT(a) FUSEDNORM_TEXT_(a)
#define FUSEDNORM_BOTH(function, T) {function<T, false>, function<T, true>}
#define FUSEDNORM_MODES(In, Out, A, E) \
    {normalize_by_rows<In, Out, A, E>, normalize_by_cols<In, Out, A, E>, normalize_by_both<In, Out, A, E>}
#define FUSEDNORM_FUSED(T) {FUSEDNORM_MODES(T, T, double, Floor), FUSEDNORM_MODES(T, T, double, ResidualFloor<T>)}
#define FUSEDNORM_IN_FLOAT(In, Out) FUSEDNORM_MODES(In, Out, float, Plain)
#define FUSEDNORM_NONE {nullptr, nullptr, nullptr}
#define FUSEDNORM_ACTIVATE(name) {activate_all<Activation::name, float>, activate_all<Activation::name, double>}
#define FUSEDNORM_FLOATS(function) {function<float>, function<double>, function<f16>, function<bf16>}
#define FUSEDNORM_GRADIENT(T, A) {gradient_by_rows<T, A>, gradient_by_cols<T, A>}
#define FUSEDNORM_GRADIENTS(T) {FUSEDNORM_GRADIENT(T, float), FUSEDNORM_GRADIENT(T, double)}
#define FUSEDNORM_JOINT(T) {joint_rows_or_none<T, false>(), joint_rows_or_none<T, true>()}
#define FUSEDNORM_WIDEN(T) copy<T, double>

extern const Kernels table;
const Kernels table = {
    FUSEDNORM_TEXT(FUSEDNORM_ISA_NAME),
    {FUSEDNORM_BOTH(moments_rows, float), FUSEDNORM_BOTH(moments_rows, double), FUSEDNORM_BOTH(moments_rows, f16),
     FUSEDNORM_BOTH(moments_rows, bf16), FUSEDNORM_BOTH(sums_rows, uint8_t), FUSEDNORM_BOTH(sums_rows, int8_t),
     FUSEDNORM_BOTH(sums_rows, uint16_t), FUSEDNORM_BOTH(sums_rows, int16_t)},
    {moments_cols<float>, moments_cols<double>, moments_cols<f16>, moments_cols<bf16>, sums_cols<uint8_t>, sums_cols<int8_t>,
     sums_cols<uint16_t>, sums_cols<int16_t>},
    merge,
    pool,
    {coefficients<float>, coefficients<double>},
    {FUSEDNORM_IN_FLOAT(float, float), FUSEDNORM_NONE, FUSEDNORM_IN_FLOAT(f16, f16), FUSEDNORM_IN_FLOAT(bf16, bf16),
     FUSEDNORM_IN_FLOAT(uint8_t, float), FUSEDNORM_NONE, FUSEDNORM_NONE, FUSEDNORM_NONE},
    {FUSEDNORM_FUSED(float), FUSEDNORM_FUSED(double), FUSEDNORM_FUSED(f16), FUSEDNORM_FUSED(bf16)},
    {add<float>, add<double>, add<f16>, add<bf16>},
    {{nullptr, nullptr},
     FUSEDNORM_ACTIVATE(relu),
     FUSEDNORM_ACTIVATE(silu),
     FUSEDNORM_ACTIVATE(gelu),
     FUSEDNORM_ACTIVATE(gelu_tanh),
     FUSEDNORM_ACTIVATE(sigmoid),
     FUSEDNORM_ACTIVATE(tanh),
     FUSEDNORM_ACTIVATE(hardswish),
     FUSEDNORM_ACTIVATE(leaky_relu)},
    {finish<float>, finish<double>, finish<f16>, finish<bf16>},
    {{sum<float, float>, sum<float, double>},
     {sum<double, double>, sum<double, double>},
     {sum<f16, f16>, sum<f16, double>},
     {sum<bf16, bf16>, sum<bf16, double>}},
    FUSEDNORM_FLOATS(gradient_sums_rows),
    {FUSEDNORM_JOINT(float), FUSEDNORM_JOINT(double), FUSEDNORM_JOINT(f16), FUSEDNORM_JOINT(bf16)},
    FUSEDNORM_FLOATS(gradient_sums_cols),
    {joint_cols_or_none<float>(), joint_cols_or_none<double>(), joint_cols_or_none<f16>(), joint_cols_or_none<bf16>()},
    {FUSEDNORM_GRADIENTS(float), {{}, FUSEDNORM_GRADIENT(double, double)}, FUSEDNORM_GRADIENTS(f16), FUSEDNORM_GRADIENTS(bf16)},
    FUSEDNORM_FLOATS(row_gradient_sums),
    {{row_gradients<float, float>, row_gradients<float, double>},
     {nullptr, row_gradients<double, double>},
     {row_gradients<f16, float>, row_gradients<f16, double>},
     {row_gradients<bf16, float>, row_gradients<bf16, double>}},
    {FUSEDNORM_WIDEN(float), copy<uint64_t, uint64_t>, FUSEDNORM_WIDEN(f16), FUSEDNORM_WIDEN(bf16), FUSEDNORM_WIDEN(uint8_t),
     FUSEDNORM_WIDEN(int8_t), FUSEDNORM_WIDEN(uint16_t), FUSEDNORM_WIDEN(int16_t), FUSEDNORM_WIDEN(bool),
     FUSEDNORM_WIDEN(uint32_t), FUSEDNORM_WIDEN(int32_t), FUSEDNORM_WIDEN(uint64_t), FUSEDNORM_WIDEN(int64_t)},
    {copy<uint8_t, uint8_t>, copy<uint16_t, uint16_t>, copy<uint32_t, uint32_t>, copy<uint64_t, uint64_t>},
};

}  // namespace fusednorm::FUSEDNORM_ISA_NAME
