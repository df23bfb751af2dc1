# Targets:
#   make build   bin/flotilla, one static binary
#   make test    vet, staticcheck, every test, under the race detector but for the simulator and most scripts of whole clusters; installs missing tools on Debian as root
#                its halves: make test-packages, and make test-clusters, which mostly waits
#   make sim     whole clusters of the protocol in one loop: SEEDS runs from SEED_BASE on, and the breaks that must be seen
#   make test-net  agents in network namespaces, whose links are cut and slowed down; as root
#   make packages  bin/packages: .deb, .rpm, and an archive with install.sh; ARCH=arm64 for another than this machine's
#   make test-install  installs, runs, upgrades and removes them in fresh minimal systems; as root

#   make test-vm  volumes as /dev/nbdX in virtual machines: file systems, databases, agents that are killed, power cuts, promotes; as root.
#                VM_FLAGS='-run Scenarios/powercuts' for one boot, VM_ROUNDS=100 for so many power cuts,
#                VM_PATIENCE=4 on a machine that is busy
#   make test-vm-qemu  the same in qemu with Debian's own kernel and two processors; slow where there is no KVM
#   make demo    a cluster on this machine, without privileges
#   make bench   beside `nbdkit file`, with fio: ratios; BENCH_JSON=file for JSON lines, BENCH_FLAGS=-h for options
#   make bench-vm  block devices in a virtual machine, beside nbdkit with nbd-client and beside DRBD; as root; BENCHVM_JSON=file, BENCHVM_FLAGS=-h for options
#   make measure  how long writes stall when components die, takeovers, cuts, scaling; MEASURE_JSON=file, MEASURE_FLAGS=-h for options
#   make bench-go  benchmarks of the packages
#   make clean   what the others made

GO        ?= go
SEEDS     ?= 1000
SEED_BASE ?= 1
VM_ROUNDS   ?= 0
VM_TIME     ?= 15m
VM_PATIENCE ?= 1
VERSION   ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)

.PHONY: build test test-packages test-clusters test-deps vet sim test-net test-vm test-vm-qemu packages test-install demo bench bench-vm measure bench-go clean

build:
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags '-s -w -X main.release=$(VERSION)' -o bin/flotilla ./cmd/flotilla

test-deps:
	scripts/test-deps.sh

vet:
	@unformatted=$$(gofmt -l agent blockdev cmd internal nbd scripts wire); \
	if [ -n "$$unformatted" ]; then echo "gofmt would change:"; echo "$$unformatted"; exit 1; fi
	$(GO) vet ./...
	$(GO) vet -tags nettest ./internal/nettest
	$(GO) vet -tags vmtest ./internal/vmtest
	$(GO) run honnef.co/go/tools/cmd/staticcheck -tags nettest,vmtest ./...

# Where -short leaves most rounds out under the race detector, all of them are run without it. The simulator is one goroutine.
SHORTENED = ./agent/journal ./agent/primary ./agent/sim

# Of the clusters of processes these run with agents under the race detector, which takes four times the CPU and more of two
# processors than there is; the rest runs without it, and mostly waits. The packages that agents are made of are all under it.
RACED = TestScripts/(cluster|disaster)$$|TestDemo$$

test: test-deps vet
	$(MAKE) test-packages
	$(MAKE) test-clusters

test-packages:
	FLOTILLA_REQUIRE_TOOLS=1 $(GO) test -race -short -timeout 15m $$($(GO) list ./... | grep -v -e /cmd/ -e /scripts/measure -e agent/sim$$)
	FLOTILLA_REQUIRE_TOOLS=1 $(GO) test -timeout 15m $(SHORTENED)

# Whole clusters of processes come last, one package at a time: beside tests under the race detector two processors are too
# few for pauses of 50 ms.
test-clusters:
	FLOTILLA_REQUIRE_TOOLS=1 $(GO) test -parallel 3 -timeout 15m ./cmd/...
	FLOTILLA_REQUIRE_TOOLS=1 $(GO) test -race -run '$(RACED)' -timeout 15m ./cmd/flotilla
	FLOTILLA_REQUIRE_TOOLS=1 $(GO) test -race -timeout 15m ./scripts/measure

# EXPLORE=1 makes the exploration whole.
sim:
	$(GO) test -c -o bin/sim.test ./agent/sim
	scripts/sim.sh $(SEEDS) $(SEED_BASE)

test-net: test-deps
	FLOTILLA_REQUIRE_TOOLS=1 $(GO) test -tags nettest -count=1 -timeout 8m -v ./internal/nettest

packages:
	scripts/packages.sh $(VERSION) $(ARCH)

test-install: packages
	scripts/test-deps.sh install
	scripts/test-install.sh

test-vm: test-deps
	FLOTILLA_OWNER=$$PPID $(GO) test -tags vmtest -count=1 -timeout $(VM_TIME) -v $(VM_FLAGS) ./internal/vmtest -rounds=$(VM_ROUNDS) -patience=$(VM_PATIENCE)

test-vm-qemu:
	scripts/test-deps.sh vm-qemu
	FLOTILLA_OWNER=$$PPID QEMU_KERNEL=$$(scripts/qemu-kernel.sh) $(GO) test -tags vmtest -count=1 -timeout 3h -v $(VM_FLAGS) ./internal/vmtest -kernel=qemu -at-once=1 -rounds=$(VM_ROUNDS) -patience=$(VM_PATIENCE)

demo: build
	bin/flotilla demo

bench: build
	$(GO) build -o bin/bench ./scripts/bench
	bin/bench $(BENCH_FLAGS)

bench-vm: build test-deps
	$(GO) build -o bin/benchvm ./scripts/benchvm
	bin/benchvm $(BENCHVM_FLAGS)

measure: build
	$(GO) build -o bin/measure ./scripts/measure
	bin/measure $(MEASURE_FLAGS)

bench-go:
	$(GO) test -run '^$$' -bench . -benchmem ./...

clean:
	rm -rf bin
