# Podsnap. Two commands do it all, as root on a Debian machine:
#   make up     installs what is missing, builds, starts the platform
#   make test   runs every test
SHELL := /bin/sh
STATE ?= /var/lib/podsnap
export CGO_ENABLED ?= 0

# The go command that deploy/setup.sh finds or fetches; asked for once, when
# a target needs it.
GO = $(eval GO := $$(shell deploy/setup.sh $(SETUP)))$(GO)
SETUP = build
VERSION := $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
COMMIT := $(shell git rev-parse --short HEAD 2>/dev/null)
LDFLAGS = -s -w -X main.release=$(VERSION) -X main.commit=$(COMMIT)
SMALL = -s -w
# vet has run before, and what a debugger needs is half of the linking.
QUICK = -vet=off -ldflags=-w

# Packages of the agent whose tests leave the machine alone, and need not have it alone.
PURE = /nodeagent/(confine|logfile|manifest|output|park|pod|probe|program|pullsecret|runtime/class|seccomp|spec)$$

.PHONY: up down build assets test unit e2e cluster cluster-test lint bench bench-compare fmt clean help

help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 14

up: build ## install what is missing, build, start the platform
	@bin/faas server start --state-dir $(STATE)
	@bin/faas login --state-dir $(STATE)
	@[ -w /usr/local/bin ] && ln -sf $(CURDIR)/bin/faas /usr/local/bin/faas || true
	@printf '\nTry next:\n  cd functions/examples && faas up\n  faas invoke markdown < markdown/input.md\n  faas list\nand when you are done: make down\n'

down: ## end the platform and all it runs; functions come back with the next make up
	@if [ -x bin/faas ]; then bin/faas server stop --state-dir $(STATE); else echo "not built, so not started from here"; fi

build: assets ## build bin/faas
	@[ -e bin/faas ] || echo 'building bin/faas: the first time takes a minute or two'
	@was=$$(stat -c %i bin/faas 2>/dev/null); $(GO) build -trimpath -ldflags '$(LDFLAGS)' -o bin/faas ./cmd/faas || exit 1; \
	if [ "$$was" != "$$(stat -c %i bin/faas)" ]; then cp bin/faas bin/faas.new && mv bin/faas.new bin/faas; fi # see RATIONALE.md

assets:
	@$(GO) build -trimpath -ldflags '$(SMALL)' -o internal/assets/bin/watchdog ./functions/watchdog
	@$(GO) build -trimpath -ldflags '$(SMALL)' -o internal/assets/bin/pause ./nodeagent/pause
	@$(GO) build -trimpath -ldflags '$(SMALL)' -o internal/assets/bin/launcher ./nodeagent/launcher
	@$(GO) build -trimpath -ldflags '$(SMALL)' -o internal/assets/bin/holder ./internal/handover/holder

test: SETUP = test
test: unit e2e ## every test: conventions, units with the race detector, the real platform

unit: SETUP = test
unit: assets
	$(GO) vet ./...
	CGO_ENABLED=1 $(GO) test $(QUICK) -race -timeout 15m $$($(GO) list ./... | grep -v -e /test/e2e -e '/test/cluster$$' -e /test/cluster/host -e /nodeagent) $$($(GO) list ./nodeagent/... | grep -E '$(PURE)')
	CGO_ENABLED=1 $(GO) test $(QUICK) -race -timeout 15m -p 1 $$($(GO) list ./nodeagent/... ./test/cluster/host | grep -v -E '$(PURE)') # one by one: they count what the machine has

e2e: SETUP = test
e2e: build
	FAAS_BINARY=$(CURDIR)/bin/faas $(GO) test $(QUICK) -count=1 -timeout 20m -p 1 ./test/e2e/... ./test/cluster

cluster: SETUP = test
cluster: build ## a cluster of three nodes on this machine, to play with; Ctrl-C ends it
	@FAAS_BINARY=$(CURDIR)/bin/faas $(GO) run ./test/cluster/try

cluster-test: SETUP = test
cluster-test: build ## the table of faults: hosts that are killed, frozen, cut off, switched off under load
	CLUSTER_FAULTS=all CLUSTER_CUTS=20 FAAS_BINARY=$(CURDIR)/bin/faas $(GO) test -count=1 -timeout 30m -v -run 'TestFaults|TestPowerCuts' ./test/cluster

lint: SETUP = test
lint: ## gofmt, vet and golangci-lint
	@out=$$($(dir $(GO))gofmt -l $$(git ls-files '*.go')); [ -z "$$out" ] || { echo "not gofmt'ed: $$out"; exit 1; }
	$(GO) vet ./...
	$(GO) tool -modfile=tools/go.mod golangci-lint run ./...

bench: build ## measure, as ratios to baselines in the same run
	FAAS_BINARY=$(CURDIR)/bin/faas $(GO) run ./bench

bench-compare: ## how the ratios of two runs differ: OLD=file NEW=file
	@$(GO) run ./bench -compare $(OLD) $(NEW)

clean: ## remove what was built
	rm -rf bin internal/assets/bin/watchdog internal/assets/bin/pause internal/assets/bin/launcher internal/assets/bin/holder bench/latest.json test/cluster/latest.json
