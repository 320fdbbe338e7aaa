"""A device for tests of the GPU: the software driver, or the one that STARCHAT_TEST_DEVICE names.

Without one these tests are skipped, or fail where STARCHAT_REQUIRE_GPU is 1.
"""

from __future__ import annotations

import base64
import os
import zlib

import pytest

from starchat import UnsupportedFeatureError
from starchat._core.machine import gpu_devices


def gpu_for_tests() -> str:
    """Return the name of the device, for `device=`."""
    name = os.environ.get("STARCHAT_TEST_DEVICE", "llvmpipe")
    try:
        if any(name in device["name"] for device in gpu_devices()) or name == "gpu":
            return name
        problem = f"no device {name}"
    except UnsupportedFeatureError as error:
        problem = str(error)
    if os.environ.get("STARCHAT_REQUIRE_GPU") == "1":
        pytest.fail(problem)
    pytest.skip(problem)


#: glslangValidator --target-env vulkan1.2 -g0, then zlib, then base 85:
#:   #version 450
#:   #extension GL_EXT_buffer_reference : require
#:   layout(local_size_x_id = 0) in;
#:   layout(constant_id = 1) const uint factor = 1;
#:   layout(buffer_reference, std430) buffer Values { uint v[]; };
#:   layout(push_constant) uniform Push { Values from, to; uint n, added; };
#:   void main() {
#:     uint i = gl_GlobalInvocationID.x;
#:     if (i < n) to.v[i] += factor * from.v[i] + added;
#:   }
ADD_SHADER = zlib.decompress(
    base64.b85decode(
        b"c-mc(%T60X5JlTFFg9@revAVo;Mm~sGC1a8<0t|tE3#n67a(Pm1#FTJ$RZz<e@gfUNF*d~^_)hn8L8A$w{G2fbf?K?)y-"
        b"F2-PPPjSA0#ExC-Z=+$olM|KjrMa`gSj*U`yjY`j-"
        b"4b$=DN*pics&N<o5^|xD#*JZC|4du^yy@DI;LTDY{n(T`dTJ*5V8L$diEy5D8Mueqcxz|shc~+~fGowf2=cQW4&m;a;sn;"
        b"q04u3}PtFpGTEUzz(6pfBJR<B1+PkvQrl|Gi`FYuode?bkyKjGKGhUmSF^cIO3zAY8o@tua~3Td(PCULWMal#(D%-"
        b"cpQ<mUJt`e@Nhhx=S$wq<4uy_vtl?3TX@H}m(A_&Xk!@{HGq*Nox=W;|l%t%$!zpIO8ovBSWhmUecEe=N^x&ETA3Q@w|Tx"
        b"8cxw5Hio~Ro<SRpM@^^_g~zN-NzYqmcY-YP{R+g1{#)cyLrPtS0c_^@ZaLB`THvJ48ND=JNo-"
        b"C{<^<I=P~QGi?;1^1MME#P2TxNRO@}zPv5_vB4-fg?0|=y-RGRl-"
        b"@_2jfY_OE<Lwg*JN=~^h97X3`_UdgP<Is78H4{M?~vSaRQrgT2Fwy_9}^3;gT@K5!$@ON(l{4)0ypIU(_h%JosW7+Guacf"
        b"Ml{m"
    )
)
