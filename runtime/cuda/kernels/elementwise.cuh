// What is done to each element by itself. grid and block: as many threads as elements, or more.
#pragma once

#include "kernel.cuh"

__device__ inline unsigned own_element() { return blockIdx.x * blockDim.x + threadIdx.x; }

// How a gate acts on the values beside it.
constexpr unsigned SILU = 0, GELU_TANH = 1, SIGMOID = 2, CLAMPED_SWIGLU = 3;

// GELU: Hendrycks and Gimpel 2016, arXiv:1606.08415, the tanh form; the clamped form is gpt-oss's.
KERNEL void gated_activation(const float *gates, const float *ups, float *output, unsigned count, unsigned kind, float alpha,
                             float limit) {
    const unsigned i = own_element();
    if (i >= count) {
        return;
    }
    float gate = gates[i], up = ups[i];
    if (kind == SILU) {
        output[i] = gate * sigmoid(gate) * up;
    } else if (kind == GELU_TANH) {
        const float inner = 0.7978845608028654f * (gate + 0.044715f * gate * gate * gate);
        output[i] = 0.5f * gate * (1.0f + tanhf(inner)) * up;
    } else if (kind == SIGMOID) {
        output[i] = sigmoid(gate) * up;
    } else {
        gate = fminf(gate, limit);
        up = fminf(fmaxf(up, -limit), limit);
        output[i] = gate * sigmoid(alpha * gate) * (up + 1.0f);
    }
}

// `weight` may be missing.
KERNEL void scale(float *buffer, unsigned count, float factor, const float *weight) {
    const unsigned i = own_element();
    if (i < count) {
        buffer[i] *= weight ? factor * *weight : factor;
    }
}

KERNEL void soft_cap(float *buffer, unsigned count, float cap) {
    const unsigned i = own_element();
    if (i < count) {
        buffer[i] = cap * tanhf(buffer[i] / cap);
    }
}

KERNEL void sigmoid_gate_rows(const float *gates, float *output, unsigned count, unsigned width) {
    const unsigned i = own_element();
    if (i < count) {
        output[i] *= sigmoid(gates[i / width]);
    }
}

KERNEL void add(const float *input, float *output, unsigned count) {
    const unsigned i = own_element();
    if (i < count) {
        output[i] += input[i];
    }
}

KERNEL void gather_logit_rows(const float *input, const uint32_t *rows, float *output, unsigned count, unsigned width) {
    const unsigned i = own_element();
    if (i < count) {
        output[i] = input[(size_t)rows[i / width] * width + i % width];
    }
}
