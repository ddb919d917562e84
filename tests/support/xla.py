"""XLA's flags in tests, most of whose time is the compiler's."""


def flags(devices: int = 1) -> str:
    """Virtual CPU devices, and code that is compiled several times quicker: by older emitters and
    hardly optimised; not at all costs more than it saves. It is generated in one part and not
    scheduled for many processors, since all are busy. Matrix products come out of a library, as
    fast as ever."""
    return (
        f"--xla_force_host_platform_device_count={devices} "
        "--xla_cpu_use_fusion_emitters=false --xla_backend_optimization_level=1 "
        "--xla_cpu_parallel_codegen_split_count=1 "
        "--xla_cpu_enable_concurrency_optimized_scheduler=false"
    )
