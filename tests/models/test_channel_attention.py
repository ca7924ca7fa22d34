from ser_jax.models.channel_attention import eca_kernel_size


def test_eca_kernel_sizes_are_the_papers():
    sizes = {24: 3, 58: 3, 122: 3, 128: 5, 232: 5, 1024: 5, 2048: 7}
    assert {channels: eca_kernel_size(channels) for channels in sizes} == sizes
