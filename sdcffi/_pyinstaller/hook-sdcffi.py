"""Collect what the package does not import: its native libraries, data files, and modules that are imported late."""

from PyInstaller.utils.hooks import collect_all

datas, binaries, hiddenimports = collect_all("sdcffi", filter_submodules=lambda name: "_pyinstaller" not in name)
