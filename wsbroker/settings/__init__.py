"""Every setting, its bounds and its reason; where settings come from; what bind addresses mean.

    config             SETTINGS, `Config` and `Settings`: defaults, bounds, units, reasons
    sources            flags, environment variables and a TOML file, strongest first
    addresses          the grammar of `bind`; addresses as URLs; what to do when binding fails
    open_sockets       listening sockets that are open already: `fd://` and socket activation
    folders            the working directory, by the name that the user has for it
    machine_limits     memory and CPUs that the machine and its cgroups give this process

May import: `types`, `errors`. Must never: start anything, log, or load asyncio or aiohttp.
"""
