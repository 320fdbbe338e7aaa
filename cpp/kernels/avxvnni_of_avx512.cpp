// The kernels for AVX-VNNI, compiled with the encoding that VPDPBUSD has in AVX-512.
#include "kernels/avxvnni.cpp"
