// A device for tests: it computes on the processor, and refuses what a GPU refuses.
//
// Tensors on it do not meet tensors of the processor (but for single numbers and indices), random
// numbers for it do not come of the processor's generators, and with EFFACE_TOY_WITHOUT_FLOAT64 set
// it holds no float64, as Apple's GPUs do not. It takes torch's place for devices of others: its
// memory is the processor's, and an operation that is not listed at the end is checked and then done
// by the processor's kernel.

#include <ATen/ATen.h>
#include <ATen/EmptyTensor.h>
#include <ATen/detail/PrivateUse1HooksInterface.h>
#include <ATen/native/CPUFallback.h>
#include <ATen/ops/_reshape_alias_native.h>
#include <ATen/ops/as_strided_native.h>
#include <ATen/ops/resize_native.h>
#include <ATen/ops/set_native.h>
#include <ATen/ops/unfold_native.h>
#include <ATen/ops/view_native.h>
#include <c10/core/Allocator.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <torch/library.h>

#include <cstdlib>
#include <cstring>

namespace {

using at::Tensor;
using Sizes = c10::SymIntArrayRef;
constexpr auto KIND = c10::DeviceType::PrivateUse1;

struct Guard final : c10::impl::DeviceGuardImplInterface {
  static constexpr c10::DeviceType static_type = KIND;
  c10::Device only() const { return c10::Device(KIND, 0); }
  c10::DeviceType type() const override { return KIND; }
  c10::Device exchangeDevice(c10::Device) const override { return only(); }
  c10::Device getDevice() const override { return only(); }
  void setDevice(c10::Device) const override {}
  void uncheckedSetDevice(c10::Device) const noexcept override {}
  c10::Stream getStream(c10::Device) const override {
    return c10::Stream(c10::Stream::DEFAULT, only());
  }
  c10::Stream exchangeStream(c10::Stream stream) const override { return stream; }
  c10::DeviceIndex deviceCount() const noexcept override { return 1; }
  void record(void**, const c10::Stream&, const c10::DeviceIndex,
              const c10::EventFlag) const override {}
  void block(void*, const c10::Stream&) const override {}
  bool queryEvent(void*) const override { return true; }
  void destroyEvent(void*, const c10::DeviceIndex) const noexcept override {}
};
C10_REGISTER_GUARD_IMPL(PrivateUse1, Guard);

void release(void* memory) { std::free(memory); }

struct Memory final : c10::Allocator {
  c10::DataPtr allocate(size_t count) override {
    void* memory = count ? std::malloc(count) : nullptr;
    return {memory, memory, &release, c10::Device(KIND, 0)};
  }
  c10::DeleterFnPtr raw_deleter() const override { return &release; }
  void copy_data(void* to, const void* from, std::size_t count) const override {
    std::memcpy(to, from, count);
  }
};
Memory memory;
REGISTER_ALLOCATOR(KIND, &memory);

struct Hooks final : at::PrivateUse1HooksInterface {
  bool hasPrimaryContext(c10::DeviceIndex) const override { return true; }
  bool isBuilt() const override { return true; }
  bool isAvailable() const override { return true; }
};
const bool hooked = [] {
  at::RegisterPrivateUse1HooksInterface(new Hooks());
  return true;
}();

void held(at::ScalarType type) {
  static const bool without = std::getenv("EFFACE_TOY_WITHOUT_FLOAT64") != nullptr;
  TORCH_CHECK(!without || type != at::kDouble, "the device holds no float64");
}

Tensor empty(Sizes sizes, std::optional<at::ScalarType> type, std::optional<at::Layout>,
             std::optional<at::Device>, std::optional<bool>,
             std::optional<at::MemoryFormat> format) {
  const auto found = c10::dtype_or_default(type);
  held(found);
  const auto keys = c10::DispatchKeySet(c10::DispatchKey::PrivateUse1);
  return at::detail::empty_generic(C10_AS_INTARRAYREF_SLOW(sizes), &memory, keys, found, format);
}

Tensor empty_strided(Sizes sizes, Sizes strides, std::optional<at::ScalarType> type,
                     std::optional<at::Layout>, std::optional<at::Device>, std::optional<bool>) {
  const auto found = c10::dtype_or_default(type);
  held(found);
  const auto keys = c10::DispatchKeySet(c10::DispatchKey::PrivateUse1);
  return at::detail::empty_strided_generic(C10_AS_INTARRAYREF_SLOW(sizes),
                                           C10_AS_INTARRAYREF_SLOW(strides), &memory, keys, found);
}

// The same memory as a tensor of the processor.
Tensor on_processor(const Tensor& tensor) {
  if (!tensor.defined() || !tensor.is_privateuseone()) return tensor;
  const auto options = tensor.options().device(at::kCPU).requires_grad(false);
  auto found = at::from_blob(const_cast<void*>(tensor.const_data_ptr()), tensor.sizes(),
                             tensor.strides(), options);
  if (tensor.is_conj()) found = found.conj();
  if (tensor.is_neg()) found = found._neg_view();
  return found;
}

Tensor on_device(const Tensor& tensor) {
  return tensor.defined() ? tensor.contiguous().to(c10::Device(KIND, 0)) : tensor;
}

Tensor copy_from(const Tensor& from, const Tensor& to, bool) {
  c10::impl::ExcludeDispatchKeyGuard without(c10::autograd_dispatch_keyset);
  on_processor(to).copy_(on_processor(from));
  return to;
}

Tensor copy_from_and_resize(const Tensor& from, const Tensor& to) {
  at::native::resize_(to, from.sizes(), std::nullopt);
  return copy_from(from, to, false);
}

at::Scalar number(const Tensor& tensor) { return on_processor(tensor).item(); }

// Attention by plain products: the fused kernels are of other devices.
int64_t plain_attention(const Tensor&, const Tensor&, const Tensor&, const std::optional<Tensor>&,
                        double, bool, std::optional<double>, bool) {
  return 0;
}

void here(const Tensor& tensor) {
  TORCH_CHECK(!tensor.defined() || tensor.is_privateuseone(),
              "a convolution was given a tensor of the processor");
}

Tensor convolution(const Tensor& input, const Tensor& weight, const std::optional<Tensor>& bias,
                   Sizes stride, Sizes padding, Sizes dilation, bool transposed, Sizes output,
                   c10::SymInt groups) {
  here(input);
  here(weight);
  std::optional<Tensor> added;
  if (bias && bias->defined()) {
    here(*bias);
    added = on_processor(*bias);
  }
  return on_device(at::convolution_symint(on_processor(input), on_processor(weight), added, stride,
                                          padding, dilation, transposed, output, groups));
}

std::tuple<Tensor, Tensor, Tensor> convolution_backward(
    const Tensor& gradient, const Tensor& input, const Tensor& weight, Sizes stride, Sizes padding,
    Sizes dilation, bool transposed, Sizes output, c10::SymInt groups, std::array<bool, 3> wanted) {
  here(gradient);
  here(input);
  here(weight);
  std::vector<c10::SymInt> biases = {transposed ? weight.sym_size(1) * groups : weight.sym_size(0)};
  auto found = at::convolution_backward_symint(
      on_processor(gradient), on_processor(input), on_processor(weight),
      at::OptionalSymIntArrayRef(biases), stride, padding, dilation, transposed, output, groups,
      wanted);
  return {on_device(std::get<0>(found)), on_device(std::get<1>(found)),
          on_device(std::get<2>(found))};
}

// Refuses what a GPU refuses, then lets the processor do it.
void checked(const c10::OperatorHandle& operation, torch::jit::Stack* stack) {
  const auto& schema = operation.schema();
  const auto arguments = torch::jit::last(*stack, schema.arguments().size());
  const std::string name = schema.name();
  const bool indexes = name.rfind("aten::index", 0) == 0 || name.rfind("aten::_index_put", 0) == 0;
  for (size_t place = 0; place < arguments.size(); ++place) {
    const auto check = [&](const Tensor& tensor) {
      if (!tensor.defined()) return;
      if (tensor.is_privateuseone()) return held(tensor.scalar_type());
      const bool may = tensor.dim() == 0 || (indexes && place > 0);
      TORCH_CHECK(may, name, " was given a tensor of the processor as ",
                  schema.arguments()[place].name());
    };
    const auto& given = arguments[place];
    if (given.isTensor()) {
      check(given.toTensor());
    } else if (given.isTensorList()) {
      for (const Tensor& each : given.toTensorVector()) check(each);
    } else if (given.isOptionalTensorList()) {
      const auto list = given.toOptionalTensorList();
      for (size_t at = 0; at < list.size(); ++at) {
        const std::optional<Tensor> each = list.get(at);
        if (each) check(*each);
      }
    } else if (given.isGenerator()) {
      TORCH_CHECK(given.toGenerator().device().type() == KIND, name,
                  " was given a generator of the processor");
    }
  }
  at::native::cpu_fallback(operation, stack, /*error_on_views=*/true);
}

}  // namespace

TORCH_LIBRARY_IMPL(_, PrivateUse1, library) {
  library.fallback(torch::CppFunction::makeFromBoxedFunction<&checked>());
}

TORCH_LIBRARY_IMPL(aten, PrivateUse1, library) {
  library.impl("empty.memory_format", &empty);
  library.impl("empty_strided", &empty_strided);
  library.impl("_copy_from", &copy_from);
  library.impl("_copy_from_and_resize", &copy_from_and_resize);
  library.impl("_local_scalar_dense", &number);
  library.impl("_fused_sdp_choice", &plain_attention);
  library.impl("convolution_overrideable", &convolution);
  library.impl("convolution_backward_overrideable", &convolution_backward);
  library.impl("as_strided", &at::native::as_strided_tensorimpl);
  library.impl("view", &at::native::view);
  library.impl("_reshape_alias", &at::native::_reshape_alias);
  library.impl("unfold", &at::native::unfold);
  library.impl("resize_", &at::native::resize_);
  library.impl("set_.source_Storage", &at::native::set_);
  library.impl("set_.source_Storage_storage_offset", &at::native::set_storage_cpu_);
  const auto by_processor = torch::CppFunction::makeFromBoxedFunction<&checked>;
  library.impl("native_group_norm", by_processor());
  library.impl("native_group_norm_backward", by_processor());
}
