// A convolution of images and its two gradients by oneDNN, for XLA's foreign function interface. See onednn.py.
#include <dnnl.hpp>

#include "xla/ffi/api/ffi.h"

namespace ffi = xla::ffi;
using dnnl::memory;
using Floats = ffi::Buffer<ffi::F32>;
using tag = memory::format_tag;

namespace {

dnnl::engine& Engine() {
  static dnnl::engine engine(dnnl::engine::kind::cpu, 0);
  return engine;
}

memory::desc Desc(const memory::dims& dims, tag format) {
  return memory::desc(dims, memory::data_type::f32, format);
}

// [N, H, W, C] as oneDNN names it, (N, C, H, W).
memory::dims Image(ffi::Span<const int64_t> d) { return {d[0], d[3], d[1], d[2]}; }

// [h, w, C, D] as oneDNN names it, (D, C, h, w).
memory::dims Kernel(ffi::Span<const int64_t> d) { return {d[3], d[2], d[0], d[1]}; }

// The kernel in the order that a primitive likes best.
memory Reordered(memory from, const memory::desc& to, dnnl::stream& stream) {
  if (from.get_desc() == to) return from;
  memory result(to, Engine());
  dnnl::reorder(from, result).execute(stream, from, result);
  return result;
}

struct Geometry {
  memory::dims strides, before, after;
  dnnl::convolution_forward::desc Forward(const memory::desc& x, const memory::desc& k, const memory::desc& y) const {
    return {dnnl::prop_kind::forward_training, dnnl::algorithm::convolution_direct, x, k, y, strides, before, after};
  }
};

template <typename Run>
ffi::Error Caught(Run run) {
  try {
    dnnl::stream stream(Engine());
    run(stream);
    stream.wait();
    return ffi::Error::Success();
  } catch (const dnnl::error& error) {
    return ffi::Error::Internal(error.what());
  }
}

memory Wrap(const memory::dims& dims, tag format, void* data) { return memory(Desc(dims, format), Engine(), data); }

ffi::Error Forward(Floats x, Floats kernel, ffi::Result<Floats> y, int64_t stride, int64_t before, int64_t after) {
  return Caught([&](dnnl::stream& stream) {
    Geometry geometry{{stride, stride}, {before, before}, {after, after}};
    auto in = Image(x.dimensions()), out = Image(y->dimensions()), weights = Kernel(kernel.dimensions());
    dnnl::convolution_forward::primitive_desc how(
        geometry.Forward(Desc(in, tag::nhwc), Desc(weights, tag::any), Desc(out, tag::nhwc)), Engine());
    memory given = Reordered(Wrap(weights, tag::hwio, kernel.untyped_data()), how.weights_desc(), stream);
    dnnl::convolution_forward(how).execute(stream, {{DNNL_ARG_SRC, Wrap(in, tag::nhwc, x.untyped_data())},
                                                    {DNNL_ARG_WEIGHTS, given},
                                                    {DNNL_ARG_DST, Wrap(out, tag::nhwc, y->untyped_data())}});
  });
}

ffi::Error OfImages(Floats cotangent, Floats kernel, ffi::Result<Floats> x, int64_t stride, int64_t before,
                    int64_t after) {
  return Caught([&](dnnl::stream& stream) {
    Geometry geometry{{stride, stride}, {before, before}, {after, after}};
    auto in = Image(x->dimensions()), out = Image(cotangent.dimensions()), weights = Kernel(kernel.dimensions());
    auto from = Desc(in, tag::nhwc), any = Desc(weights, tag::any), to = Desc(out, tag::nhwc);
    dnnl::convolution_forward::primitive_desc hint(geometry.Forward(from, any, to), Engine());
    dnnl::convolution_backward_data::primitive_desc how(
        {dnnl::algorithm::convolution_direct, from, any, to, geometry.strides, geometry.before, geometry.after},
        Engine(), hint);
    memory given = Reordered(Wrap(weights, tag::hwio, kernel.untyped_data()), how.weights_desc(), stream);
    dnnl::convolution_backward_data(how).execute(
        stream, {{DNNL_ARG_DIFF_DST, Wrap(out, tag::nhwc, cotangent.untyped_data())},
                 {DNNL_ARG_WEIGHTS, given},
                 {DNNL_ARG_DIFF_SRC, Wrap(in, tag::nhwc, x->untyped_data())}});
  });
}

ffi::Error OfKernel(Floats x, Floats cotangent, ffi::Result<Floats> kernel, int64_t stride, int64_t before,
                    int64_t after) {
  return Caught([&](dnnl::stream& stream) {
    Geometry geometry{{stride, stride}, {before, before}, {after, after}};
    auto in = Image(x.dimensions()), out = Image(cotangent.dimensions()), weights = Kernel(kernel->dimensions());
    auto from = Desc(in, tag::nhwc), any = Desc(weights, tag::any), to = Desc(out, tag::nhwc);
    dnnl::convolution_forward::primitive_desc hint(geometry.Forward(from, any, to), Engine());
    dnnl::convolution_backward_weights::primitive_desc how(
        {dnnl::algorithm::convolution_direct, from, any, to, geometry.strides, geometry.before, geometry.after},
        Engine(), hint);
    memory wanted = Wrap(weights, tag::hwio, kernel->untyped_data());
    bool direct = how.diff_weights_desc() == wanted.get_desc();
    memory made = direct ? wanted : memory(how.diff_weights_desc(), Engine());
    dnnl::convolution_backward_weights(how).execute(
        stream, {{DNNL_ARG_SRC, Wrap(in, tag::nhwc, x.untyped_data())},
                 {DNNL_ARG_DIFF_DST, Wrap(out, tag::nhwc, cotangent.untyped_data())},
                 {DNNL_ARG_DIFF_WEIGHTS, made}});
    if (!direct) dnnl::reorder(made, wanted).execute(stream, made, wanted);
  });
}

auto Bound() {
  return ffi::Ffi::Bind().Arg<Floats>().Arg<Floats>().Ret<Floats>().Attr<int64_t>("stride").Attr<int64_t>("before").Attr<int64_t>("after");
}

}  // namespace

XLA_FFI_DEFINE_HANDLER_SYMBOL(OnednnForward, Forward, Bound());
XLA_FFI_DEFINE_HANDLER_SYMBOL(OnednnOfImages, OfImages, Bound());
XLA_FFI_DEFINE_HANDLER_SYMBOL(OnednnOfKernel, OfKernel, Bound());
