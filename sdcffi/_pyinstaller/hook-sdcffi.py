"""PyInstaller's hook: modules that are imported by name, and all files that are no modules."""

from PyInstaller.utils.hooks import collect_data_files, collect_submodules

hiddenimports = collect_submodules("sdcffi", lambda name: not name.startswith(("sdcffi._pyinstaller", "sdcffi._build")))
datas = collect_data_files("sdcffi", excludes=["csrc", "docs", "_pyinstaller"])
