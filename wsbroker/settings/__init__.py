"""Every setting with its bounds and its reason; the sources of settings; the meaning of bind addresses.

    config             `Config`, `Settings` and SETTINGS: all settings with their defaults, bounds, units and reasons
    checks             the description of one setting; checks of types, bounds and contradictions
    sources            flags, environment variables and a TOML file, strongest first
    addresses          the grammar of `bind`; addresses as URLs; texts for addresses that cannot be bound
    open_sockets       listening sockets that are open already: `fd://` and socket activation
    folders            the working directory with its symbolic links, by the name that the user has for it
    descriptors        the limit of open file descriptors, and the connections that it allows
    machine_limits     memory and CPUs that the machine and its cgroups give this process

May import: `types`, `errors`. Must never: start anything, log, or load asyncio or aiohttp.
"""
