"""Runs in a frozen program before its main script, which the child process of an engine must not run."""

import sys

sys._starts_sdcffi_child = True  # for `sdcffi._process.launch`
if sys.argv[1:2] == ["--sdcffi-child"]:
    from multiprocessing import connection

    end = (connection.PipeConnection if sys.platform == "win32" else connection.Connection)(int(sys.argv[2]))
    end.send_bytes(b"sdcffi on Python %d.%d" % sys.version_info[:2])
    from sdcffi._process.child import main

    main(end, int(sys.argv[3]))
