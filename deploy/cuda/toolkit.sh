#!/usr/bin/env bash
# Assembles what it takes to compile and link the `cuda` feature on a machine that has no GPU and no CUDA installed.
#
#   eval "$(deploy/cuda/toolkit.sh FOLDER)"
#
# It puts the compiler (CUDA 13.0: code from a newer one is refused by drivers of the 580 series) into FOLDER from NVIDIA's
# Python wheels, 105 MB to fetch and 0.3 GB unpacked, and prints the variables that the build scripts of cudarc and
# candle read. Nothing outside FOLDER changes; a second run takes a second. It needs python3 with pip and a C compiler.
#
# CUDA_LINK=lazy (the default) links small stand-ins for the driver, cuBLAS and cuRAND which open the real libraries at
# their first call: the program starts on machines without a GPU and says so. CUDA_LINK=dynamic links the usual way,
# and the loader wants every library at the start.
set -euo pipefail

say() { printf 'cuda toolkit: %s\n' "$*" >&2; }
fail() { say "error: $*"; exit 1; }

[ $# -eq 1 ] || fail "usage: eval \"\$($0 FOLDER)\""
repository=$(cd "$(dirname "$0")/../.." && pwd)
mkdir -p "$1"
folder=$(cd "$1" && pwd)
link=${CUDA_LINK:-lazy}
case $link in lazy | dynamic) ;; *) fail "CUDA_LINK=$link: it is lazy or dynamic" ;; esac

wheels=(
  nvidia-cuda-nvcc==13.0.88     # nvcc, ptxas
  nvidia-nvvm==13.0.88          # cicc, libdevice
  nvidia-cuda-crt==13.0.88      # headers of the compiler
  nvidia-cuda-runtime==13.0.96  # headers, the static runtime
  nvidia-cuda-cccl==13.0.85     # cub, thrust
)

unpack_compiler() {
  local stamp="$folder/wheels.txt"
  if [ -e "$stamp" ] && [ "$(cat "$stamp")" = "${wheels[*]}" ]; then return; fi
  say "fetching the compiler (105 MB)"
  local work
  work=$(mktemp -d "$folder/unpack.XXXXXX")
  python3 -m pip download --quiet --no-deps --only-binary=:all: --dest "$work" "${wheels[@]}" >&2
  for wheel in "$work"/*.whl; do python3 -m zipfile -e "$wheel" "$work/tree"; done
  cp -r "$work"/tree/nvidia/cu13/. "$folder/"
  rm -rf "$work"
  # Python's unzip forgets which files may be run.
  chmod +x "$folder"/bin/* "$folder"/nvvm/bin/*
  ln -sfn lib "$folder/lib64"
  # `-lcudart` shall find the static runtime.
  ln -sf libcudart_static.a "$folder/lib/libcudart.a"
  printf '%s' "${wheels[*]}" >"$stamp"
}

# Also embeds portable code (PTX) in the kernels that are compiled ahead of time, where the build asks for machine code
# of one architecture only: a program built for compute 8.0 then runs on everything newer.
write_compiler_wrapper() {
  cat >"$folder/bin/nvcc-portable" <<'WRAPPER'
#!/usr/bin/env bash
nvcc=$(dirname "$(readlink -f "$0")")/nvcc
architecture=
for argument in "$@"; do
  case $argument in
    --ptx | --version | --list-gpu-code | --lib) exec "$nvcc" "$@" ;;
    -gencode=arch=compute_*) architecture=${argument#-gencode=arch=compute_}; architecture=${architecture%%,*} ;;
  esac
done
# Architecture-specific code (90a and the like) runs nowhere else, as PTX or not.
case $architecture in
  '' | *[!0-9]*) exec "$nvcc" "$@" ;;
  *) exec "$nvcc" "$@" "-gencode=arch=compute_$architecture,code=compute_$architecture" ;;
esac
WRAPPER
  chmod +x "$folder/bin/nvcc-portable"
}

# The functions that a crate declares for one library, one per line.
functions_of() {
  grep -ohE 'pub (unsafe )?fn (cu[A-Z]|cublas|curand|nvrtc)\w+' "$cudarc/$1"/sys/*.rs | awk '{ print $NF }' | sort -u
}

# An archive whose functions look themselves up in `lib$2.so.$3` when they are called first; without the library they
# return $4, the library's own word for "not there". Each function is a jump through a table that starts out pointing at
# the lookup, so that later calls cost one indirect jump.
write_lazy() {
  local module=$1 library=$2 version=$3 missing=$4 source="$stubs/$2.s"
  functions_of "$module" >"$stubs/$library.names"
  {
    printf '.section .note.GNU-stack,"",@progbits\n.text\n'
    awk -v lib="$library" '{
      n = NR - 1
      printf ".globl %s\n.type %s,@function\n%s: jmp *slots_%s+%d(%%rip)\n", $0, $0, $0, lib, 8 * n
      printf ".Lfirst_%s_%d: pushq $%d\n jmp first_%s\n", lib, n, n, lib
    }' "$stubs/$library.names"
    # The first call: every register that may hold an argument is kept while the function is looked up. With the number
    # and six registers pushed, the stack is aligned for the call.
    printf 'first_%s:\n' "$library"
    for register in rdi rsi rdx rcx r8 r9; do printf ' pushq %%%s\n' $register; done
    printf ' subq $128, %%rsp\n'
    for i in 0 1 2 3 4 5 6 7; do printf ' movups %%xmm%d, %d(%%rsp)\n' $i $((16 * i)); done
    printf ' movq 176(%%rsp), %%rdi\n call find_%s\n movq %%rax, %%r11\n' "$library"
    for i in 0 1 2 3 4 5 6 7; do printf ' movups %d(%%rsp), %%xmm%d\n' $((16 * i)) $i; done
    printf ' addq $128, %%rsp\n'
    for register in r9 r8 rcx rdx rsi rdi; do printf ' popq %%%s\n' $register; done
    printf ' addq $8, %%rsp\n jmp *%%r11\n'
    printf '.data\n.balign 8\n.hidden slots_%s\n.globl slots_%s\nslots_%s:\n' "$library" "$library" "$library"
    awk -v lib="$library" '{ printf ".quad .Lfirst_%s_%d\n", lib, NR - 1 }' "$stubs/$library.names"
  } >"$source"
  {
    printf '#include <dlfcn.h>\n#include <stddef.h>\n'
    printf 'extern __attribute__((visibility("hidden"))) void *slots_%s[];\n' "$library"
    printf 'static const char *const names[] = {\n'
    awk '{ printf "\"%s\",\n", $0 }' "$stubs/$library.names"
    printf '};\nstatic int not_there(void) { return %d; }\n' "$missing"
    printf '__attribute__((used, visibility("hidden"))) void *find_%s(long number) {\n' "$library"
    printf '  static void *library;\n'
    printf '  if (library == NULL) library = dlopen("lib%s.so.%s", RTLD_NOW | RTLD_GLOBAL);\n' "$library" "$version"
    printf '  void *function = library == NULL ? NULL : dlsym(library, names[number]);\n'
    printf '  if (function == NULL) function = (void *)not_there;\n'
    printf '  return slots_%s[number] = function;\n}\n' "$library"
  } >"$stubs/$library.c"
  cc -O1 -fPIC -c "$stubs/$library.c" -o "$stubs/$library.find.o"
  cc -c "$source" -o "$stubs/$library.jump.o"
  ar crs "$stubs/lib$library.a" "$stubs/$library.find.o" "$stubs/$library.jump.o"
  rm "$stubs/$library".{names,s,c,find.o,jump.o}
}

# A shared library of the right name and functions, for the linker alone.
write_dynamic() {
  local module=$1 library=$2 version=$3 missing=$4
  functions_of "$module" | awk -v missing="$missing" '{ print "int " $0 "(void) { return " missing "; }" }' |
    cc -shared -fPIC -x c - -Wl,-soname,"lib$library.so.$version" -o "$stubs/lib$library.so"
}

write_stand_ins() {
  cudarc=$(cargo metadata --manifest-path "$repository/Cargo.toml" --format-version 1 --locked --features cuda |
    python3 -c 'import json, os, sys
packages = json.load(sys.stdin)["packages"]
print(next(os.path.dirname(p["manifest_path"]) for p in packages if p["name"] == "cudarc"))')/src
  [ -d "$cudarc" ] || fail "cudarc's sources are not there: run \`cargo fetch\` first"
  stubs=$folder/lib/stubs
  rm -rf "$stubs"
  mkdir -p "$stubs"
  write_"$link" driver cuda 1 100
  write_"$link" cublas cublas 13 1
  write_"$link" cublaslt cublasLt 13 1
  write_"$link" curand curand 10 203
  write_"$link" nvrtc nvrtc 13 11
}

unpack_compiler
write_compiler_wrapper
write_stand_ins
say "$("$folder/bin/nvcc" --version | grep release) in $folder, linked $link"
cat <<VARIABLES
export CUDA_HOME='$folder' NVCC='$folder/bin/nvcc-portable' PATH='$folder/bin':"\$PATH"
VARIABLES
