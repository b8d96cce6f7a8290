# SPDX-License-Identifier: BSD-3-Clause
# The RDMA peer that tests script: $(BUILD)/tests/rdma-peer.

$(BUILD)/tests/rdma-peer: $(BUILD)/obj/tests/rdma/peer.o
	@mkdir -p $(@D)
	$(CC) $(CFLAGS) $(LDFLAGS) -o $@ $< $(shell pkg-config --libs libibverbs librdmacm)
