package host

import "embed"

// Source is this package's own source: the builder compiles it into functions
// that are written in Go, on machines that cannot download it.
//
//go:embed *.go
var Source embed.FS
