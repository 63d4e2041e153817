"""Makes pictures of every format and mode, and writes down what Pillow 10.1.0 makes of them.

    python make.py FOLDER [--many]

`expected.txt` has one line per picture: name, size or error code, SHA-256 of `convert("RGB")`, and
`SIZE:SHA-256` for bicubic resizes to squares. Without --many it makes the small set that is committed.
Arithmetic coding is the work of `cjpeg` (libjpeg-turbo), which must be on PATH.
"""
import argparse
import hashlib
import io
import random
import struct
import subprocess
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

OPTIONS = argparse.ArgumentParser()
OPTIONS.add_argument("folder", type=Path)
OPTIONS.add_argument("--many", action="store_true")
OPTIONS = OPTIONS.parse_args()
RANDOM = random.Random(7)
LINES = []


def noise(width, height, channels, smooth=True):
    rng = np.random.default_rng(RANDOM.randrange(1 << 30))
    y, x = np.mgrid[0:height, 0:width]
    planes = []
    for c in range(channels):
        wave = 127 + 100 * np.sin(x / (5 + 3 * c) + y / (9 - 2 * c)) + rng.normal(0, 12 if smooth else 60, (height, width))
        planes.append(np.clip(wave, 0, 255).astype(np.uint8))
    return np.stack(planes, -1) if channels > 1 else planes[0]


def expected(data, code, sizes):
    if code:
        return code
    image = Image.open(io.BytesIO(data)).convert("RGB")
    cells = [f"{image.width}x{image.height}", hashlib.sha256(image.tobytes()).hexdigest()]
    for size in sizes:
        cells.append(f"{size}:{hashlib.sha256(image.resize((size, size), Image.BICUBIC).tobytes()).hexdigest()}")
    return " ".join(cells)


def put(name, data, code=None, sizes=()):
    if data is None:
        return
    (OPTIONS.folder / name).write_bytes(data)
    LINES.append(f"{name} {expected(data, code, sizes)}")


def saved(image, fmt, **options):
    out = io.BytesIO()
    try:
        image.save(out, fmt, **options)
    except OSError:  # Pillow's JPEG writer has too small a buffer for some tiny pictures
        return None
    return out.getvalue()


def png(width, height, depth, colour, rows, extra=b"", end=True):
    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    data += extra + chunk(b"IDAT", zlib.compress(rows))
    return data + (chunk(b"IEND", b"") if end else b"")


def chunk(kind, body):
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def jpegs():
    sizes = [(48, 33)] if not OPTIONS.many else [(1, 1), (7, 5), (16, 16), (17, 31), (48, 33), (201, 155), (8, 200)]
    qualities = [75] if not OPTIONS.many else [5, 30, 75, 92, 100]
    for width, height in sizes:
        rgb = Image.fromarray(noise(width, height, 3))
        for quality in qualities:
            for subsampling in (0, 1, 2):
                for progressive in (False, True):
                    name = f"jpeg_{width}x{height}_q{quality}_s{subsampling}_{'p' if progressive else 'b'}.jpg"
                    put(name, saved(rgb, "JPEG", quality=quality, subsampling=subsampling, progressive=progressive))
            put(f"jpeg_{width}x{height}_q{quality}_grey.jpg", saved(rgb.convert("L"), "JPEG", quality=quality))
            cmyk = Image.fromarray(noise(width, height, 4), "CMYK")
            put(f"jpeg_{width}x{height}_q{quality}_cmyk.jpg", saved(cmyk, "JPEG", quality=quality))
        tall = bytearray(saved(rgb, "JPEG", quality=80, subsampling=1) or b"\xff\xc0" + bytes(20))
        sof = tall.index(b"\xff\xc0")
        tall[sof + 11] = 0x12  # 4:4:0: two luma rows per chroma row
        if width % 16 == 0 and height % 16 == 0:
            put(f"jpeg_{width}x{height}_440.jpg", bytes(tall))
    rgb = Image.fromarray(noise(48, 33, 3))
    put("jpeg_restart.jpg", saved(rgb, "JPEG", quality=80, restart_marker_blocks=2))
    put("jpeg_exif_turned.jpg", saved(rgb, "JPEG", exif=b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0"))
    ycck = bytearray(saved(Image.fromarray(noise(48, 33, 4), "CMYK"), "JPEG", quality=85))
    adobe = ycck.index(b"Adobe")
    ycck[adobe + 11] = 2
    put("jpeg_ycck.jpg", bytes(ycck))
    plain = saved(rgb, "JPEG", quality=85)
    put("jpeg_named.png", plain)
    put("jpeg_trailing.jpg", plain + b"more bytes than the picture needs")
    put("jpeg_half.jpg", plain[: len(plain) // 2], "truncated")
    put("jpeg_header_only.jpg", plain[:100], "truncated")
    put("jpeg_no_end.jpg", plain[:-2], "truncated")
    put("jpeg_corrupt.jpg", b"\xff\xd8\xff\xdb\x00\x02\xff\xda\x00\x02" + plain[400:], "corrupt")


def pngs():
    sizes = [(37, 23)] if not OPTIONS.many else [(1, 1), (37, 23), (8, 9), (255, 3)]
    for width, height in sizes:
        rgb = noise(width, height, 3)
        for mode in ("1", "L", "LA", "RGB", "RGBA", "P", "I;16"):
            if mode == "I;16":
                image = Image.fromarray((noise(width, height, 1).astype(np.uint16) * 7))
            elif mode == "LA":
                image = Image.fromarray(noise(width, height, 2), "LA")
            elif mode == "RGBA":
                image = Image.fromarray(noise(width, height, 4), "RGBA")
            elif mode == "P":
                image = Image.fromarray(rgb).quantize(37)
            else:
                image = Image.fromarray(rgb).convert(mode)
            put(f"png_{width}x{height}_{mode.replace(';', '')}.png", saved(image, "PNG"))
        put(f"png_{width}x{height}_Ptrans.png", saved(Image.fromarray(rgb).quantize(16), "PNG", transparency=3))
        for bits in (1, 2, 4):
            put(f"png_{width}x{height}_P{bits}.png", saved(Image.fromarray(rgb).quantize(1 << bits), "PNG", bits=bits))
        put(f"png_{width}x{height}_Ltrans.png", saved(Image.fromarray(rgb).convert("L"), "PNG", transparency=100))
        put(f"png_{width}x{height}_RGBtrans.png", saved(Image.fromarray(rgb), "PNG", transparency=(1, 2, 3)))
        raw16 = np.random.default_rng(3).integers(0, 65536, (height, width, 4), dtype=np.uint16)
        for colour, channels in ((0, 1), (2, 3), (4, 2), (6, 4)):
            rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in raw16[:, :, :channels])
            put(f"png_{width}x{height}_c{colour}_16.png", png(width, height, 16, colour, rows))
        rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in raw16[:, :, :1])
        put(f"png_{width}x{height}_c0_16_trans.png", png(width, height, 16, 0, rows, chunk(b"tRNS", b"\x01\x02")))
        for bits in (2, 4):
            packed = np.random.default_rng(4).integers(0, 256, (height, (width * bits + 7) // 8), dtype=np.uint8)
            put(f"png_{width}x{height}_grey{bits}.png", png(width, height, bits, 0, b"".join(b"\0" + r.tobytes() for r in packed)))
    whole = saved(Image.fromarray(noise(60, 40, 3)), "PNG")
    put("png_half.png", whole[: len(whole) // 2], "truncated")
    put("png_named.jpg", whole)
    put("png_gamma.png", saved(Image.fromarray(noise(20, 10, 3)), "PNG", gamma=1.7, dpi=(300, 300)))


def others():
    sizes = [(45, 31)] if not OPTIONS.many else [(1, 1), (45, 31), (16, 16), (130, 67), (33, 200)]
    for width, height in sizes:
        tag = f"{width}x{height}"
        rgb = Image.fromarray(noise(width, height, 3))
        rgba = Image.fromarray(noise(width, height, 4), "RGBA")
        grey = rgb.convert("L")
        put(f"webp_{tag}_lossless.webp", saved(rgb, "WEBP", lossless=True))
        put(f"webp_{tag}_lossless_alpha.webp", saved(rgba, "WEBP", lossless=True, exact=True))
        for quality in (10, 60, 95) if OPTIONS.many else (80,):
            put(f"webp_{tag}_q{quality}.webp", saved(rgb, "WEBP", quality=quality))
            put(f"webp_{tag}_q{quality}_alpha.webp", saved(rgba, "WEBP", quality=quality))
        put(f"gif_{tag}.gif", saved(rgb.quantize(64), "GIF"))
        put(f"gif_{tag}_grey.gif", saved(grey, "GIF"))
        put(f"gif_{tag}_trans.gif", saved(rgb.quantize(8), "GIF", transparency=2))
        put(f"gif_{tag}_two.gif", saved(rgb.quantize(20), "GIF", save_all=True, append_images=[grey.quantize(9)], duration=50))
        put(f"gif_{tag}_flat.gif", saved(rgb.quantize(2), "GIF", interlace=0))
        for mode in ("1", "L", "P", "RGB"):
            put(f"bmp_{tag}_{mode}.bmp", saved(rgb.convert(mode), "BMP"))
        put(f"bmp_{tag}_RGBA.bmp", saved(rgba, "BMP"))
        for mode in ("1", "L", "RGB"):
            put(f"pnm_{tag}_{mode}.pnm", saved(rgb.convert(mode), "PPM"))
        put(f"pnm_{tag}_16.pgm", b"P5 %d %d 65535\n" % (width, height) + np.random.default_rng(1).integers(0, 65536, (height, width)).astype(">u2").tobytes())
        put(f"pnm_{tag}_16.ppm", b"P6 %d %d 65535\n" % (width, height) + np.random.default_rng(1).integers(0, 65536, (height, width, 3)).astype(">u2").tobytes())
        put(f"pnm_{tag}_odd.ppm", b"P6 # a comment\n%d %d\n100\n" % (width, height) + np.random.default_rng(1).integers(0, 101, (height, width, 3)).astype(np.uint8).tobytes())
        put(f"pnm_{tag}_plain.ppm", b"P3 %d %d 255\n" % (width, height) + b" ".join(b"%d" % v for v in np.asarray(rgb).ravel()) + b"\n")
        for mode in ("1", "L", "P", "RGB", "RGBA", "CMYK", "LA"):
            image = rgba if mode == "RGBA" else Image.fromarray(noise(width, height, 4), "CMYK") if mode == "CMYK" else rgb.convert(mode)
            for compression in ("raw", "tiff_lzw", "tiff_adobe_deflate", "packbits") if OPTIONS.many else ("tiff_lzw",):
                put(f"tiff_{tag}_{mode}_{compression}.tif", saved(image, "TIFF", compression=compression))
        put(f"tiff_{tag}_I16.tif", saved(Image.fromarray(noise(width, height, 1).astype(np.uint16) * 3), "TIFF"))
        if width <= 256 and height <= 256:
            put(f"ico_{tag}.ico", saved(rgba, "ICO", sizes=[(width, height)]))
            put(f"ico_{tag}_bmp.ico", saved(rgba, "ICO", sizes=[(width, height)], bitmap_format="bmp"))
    whole = saved(Image.fromarray(noise(45, 31, 3)).quantize(64), "GIF")
    put("gif_half.gif", whole[: len(whole) // 2], "truncated")
    whole = saved(Image.fromarray(noise(45, 31, 3)), "WEBP", quality=80)
    put("webp_half.webp", whole[: len(whole) // 2], "truncated")
    whole = saved(Image.fromarray(noise(45, 31, 3)), "BMP")
    put("bmp_half.bmp", whole[: len(whole) // 2], "truncated")
    put("empty.jpg", b"", "empty")
    put("text.jpg", b"this is not a picture", "unsupported_format")


def resizes():
    shapes = [(1, 1), (2000, 1), (3, 5), (224, 224), (300, 224)]
    sizes = [1, 112, 224, 448]
    if OPTIONS.many:
        shapes += [(20000, 1), (1, 5000), (447, 449), (1920, 1080)]
        shapes += [(RANDOM.randrange(1, 700), RANDOM.randrange(1, 700)) for _ in range(300)]
    for index, (width, height) in enumerate(shapes):
        data = saved(Image.fromarray(noise(width, height, 3, smooth=False)), "PNG")
        chosen = sizes if index < 8 else [RANDOM.choice(sizes), RANDOM.randrange(1, 500)]
        put(f"resize_{index}_{width}x{height}.png", data, sizes=chosen)


def several():
    """Files of more than one picture, and what few programs write. Drawn last: what is above stays as it was."""
    pictures = [Image.fromarray(noise(45, 31, 3)) for _ in range(3)]
    clear = [Image.fromarray(noise(45, 31, 4)) for _ in range(2)]
    put("webp_animated.webp", saved(pictures[0], "WEBP", save_all=True, append_images=pictures[1:], lossless=True))
    put("webp_animated_alpha.webp", saved(clear[0], "WEBP", save_all=True, append_images=clear[1:], lossless=True, exact=True))
    put("tiff_pages.tif", saved(pictures[0], "TIFF", save_all=True, append_images=pictures[1:], compression="tiff_lzw"))
    put("tiff_group4.tif", saved(pictures[0].convert("1"), "TIFF", compression="group4"))
    for mode in ("RGB", "P", "L"):
        put(f"ico_{mode}.ico", saved(pictures[0].convert(mode), "ICO", sizes=[(45, 31)]))
    put("ico_sizes.ico", saved(Image.fromarray(noise(64, 64, 4)), "ICO", sizes=[(16, 16), (64, 64), (32, 32)]))
    for name, options in (("arithmetic", []), ("arithmetic_progressive", ["-progressive"])):
        command = ["cjpeg", "-arithmetic", *options]
        put(f"jpeg_{name}.jpg", subprocess.run(command, input=saved(pictures[0], "PPM"), capture_output=True, check=True).stdout)


OPTIONS.folder.mkdir(parents=True, exist_ok=True)
jpegs()
pngs()
others()
resizes()
several()
(OPTIONS.folder / "expected.txt").write_text("\n".join(LINES) + "\n")
print(len(LINES), "pictures")
