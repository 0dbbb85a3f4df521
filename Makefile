# Podsnap: `make up` and `make test` are all you need.
GO ?= go
export CGO_ENABLED ?= 0
LDFLAGS = -s -w

.PHONY: build assets

build: assets
	$(GO) build -trimpath -ldflags '$(LDFLAGS)' -o bin/faas ./cmd/faas

assets:
	$(GO) build -trimpath -ldflags '$(LDFLAGS)' -o internal/assets/bin/watchdog ./functions/watchdog
	$(GO) build -trimpath -ldflags '$(LDFLAGS)' -o internal/assets/bin/pause ./nodeagent/pause
