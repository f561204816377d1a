# Everything that is done to this repository. `make help` lists the targets.

SHELL       := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS   += --no-print-directory

# How long each fuzz target runs, and which ones.
FUZZTIME ?= 5s
FUZZ     ?= .
# Which benchmarks run, and how often.
BENCH ?= .
COUNT ?= 1
# What `make sim` runs; a report of it is written when REPORT names a file.
SEEDS ?=
FOR   ?=
FROM  ?=
# Further flags for `go test`, such as TESTFLAGS='-run Tag -v'.
TESTFLAGS ?=

.PHONY: help
help: ## List the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## /{printf "  %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: build
build: ## Build soracached into .bin
	go build -o .bin/soracached ./cmd/soracached

.PHONY: run
run: ## Run a node on 127.0.0.1:7070 with the embedded store
	go run ./cmd/soracached

.PHONY: test
test: ## Run all tests, most with the race detector, and every fuzz target for FUZZTIME
	@scripts/install-redis
	@scripts/install-iproute2
	@scripts/tool grpcurl
	@FUZZ='$(FUZZ)' FUZZTIME='$(FUZZTIME)' scripts/test $(TESTFLAGS)

.PHONY: verify
verify: ## Run the full counts and write docs/verification/node.txt (takes long; refuses a changed tree unless FORCE=1)
	@scripts/install-redis
	@scripts/install-iproute2
	@scripts/tool grpcurl
	@scripts/verify

.PHONY: sim
sim: ## Simulate clusters: SEEDS=20000 for a count, FOR=1h for a time, FROM=1 for the first seed
	@scripts/sim '$(SEEDS)' '$(FOR)' '$(FROM)'

.PHONY: fuzz
fuzz: ## Run every fuzz target for FUZZTIME (FUZZ=Name chooses)
	@scripts/fuzz '$(FUZZ)' '$(FUZZTIME)'

.PHONY: bench
bench: ## Run the benchmarks (BENCH=Name chooses, COUNT=10 for benchstat)
	@scripts/install-redis
	go test -run '^$$' -bench '$(BENCH)' -benchmem -count $(COUNT) -timeout 2h ./...

.PHONY: cover
cover: ## Write the coverage of the tests to .bin/cover.html
	@scripts/install-redis
	go test -coverpkg ./... -coverprofile .bin/cover.out ./...
	go tool cover -html .bin/cover.out -o .bin/cover.html
	go tool cover -func .bin/cover.out | tail -1

.PHONY: lint
lint: ## Check the code with golangci-lint, and that imports follow the architecture
	@scripts/tool golangci-lint
	@scripts/lint

.PHONY: cross
cross: ## Build and vet for another platform: PLATFORM=windows/amd64
	GOOS=$(firstword $(subst /, ,$(PLATFORM))) GOARCH=$(lastword $(subst /, ,$(PLATFORM))) CGO_ENABLED=0 go build ./...
	GOOS=$(firstword $(subst /, ,$(PLATFORM))) GOARCH=$(lastword $(subst /, ,$(PLATFORM))) CGO_ENABLED=0 go vet ./...

.PHONY: fmt
fmt: ## Format the code
	gofmt -w $$(git ls-files --cached --others --exclude-standard '*.go')

.PHONY: generate
generate: ## Generate the code of the wire contract
	@scripts/tool buf protoc-gen-go protoc-gen-connect-go
	cd proto && ../.bin/buf lint && ../.bin/buf generate

.PHONY: checkgenerate
checkgenerate: generate ## Fail if the committed generated code is not what the contract generates
	@changed=$$(git status --porcelain -- proto); \
	if [ -n "$$changed" ]; then \
		git --no-pager diff -- proto; \
		echo "generated code differs from what is committed: run make generate and commit"; echo "$$changed"; exit 1; \
	fi

.PHONY: tools
tools: ## Install what the other targets need: redis-server from the system's packages, the rest into .bin
	@scripts/install-redis
	@scripts/install-iproute2
	@scripts/tool golangci-lint buf protoc-gen-go protoc-gen-connect-go grpcurl

.PHONY: clean
clean: ## Remove what was built
	rm -rf .bin
