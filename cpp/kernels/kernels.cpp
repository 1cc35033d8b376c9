// The instantiations and the table: the only symbol that this object exports. Compiled once per instruction set.
#include "kernels.hpp"

#include "moments.hpp"
#include "normalize.hpp"

namespace fusednorm::FUSEDNORM_ISA_NAME {

#define FUSEDNORM_TEXT_(a) #a
#define FUSEDNORM_TEXT(a) FUSEDNORM_TEXT_(a)
#define FUSEDNORM_MODES(In, Out, A) \
    {normalize_by_rows<In, Out, A>, normalize_by_cols<In, Out, A>, normalize_by_both<In, Out, A>}
#define FUSEDNORM_CONVERT(In) {convert<In, float>, convert<In, double>}

extern const Kernels table;
const Kernels table = {
    FUSEDNORM_TEXT(FUSEDNORM_ISA_NAME),
    {{moments_rows<float, false>, moments_rows<float, true>}, {moments_rows<double, false>, moments_rows<double, true>}},
    {{moments_cols<float, false>, moments_cols<float, true>}, {moments_cols<double, false>, moments_cols<double, true>}},
    merge,
    pool,
    {coefficients<float>, coefficients<double>},
    {{{FUSEDNORM_MODES(float, float, float), FUSEDNORM_MODES(float, float, double)},
      {{nullptr, nullptr, nullptr}, FUSEDNORM_MODES(float, double, double)}},
     {{{nullptr, nullptr, nullptr}, FUSEDNORM_MODES(double, float, double)},
      {{nullptr, nullptr, nullptr}, FUSEDNORM_MODES(double, double, double)}}},
    {FUSEDNORM_CONVERT(float), FUSEDNORM_CONVERT(double), FUSEDNORM_CONVERT(bool), FUSEDNORM_CONVERT(uint8_t),
     FUSEDNORM_CONVERT(int8_t), FUSEDNORM_CONVERT(uint16_t), FUSEDNORM_CONVERT(int16_t), FUSEDNORM_CONVERT(uint32_t),
     FUSEDNORM_CONVERT(int32_t), FUSEDNORM_CONVERT(uint64_t), FUSEDNORM_CONVERT(int64_t)},
};

}  // namespace fusednorm::FUSEDNORM_ISA_NAME
