//go:build !amd64

package main

import "golang.org/x/sys/unix"

// enter32: this machine has no such entry that a 64-bit program could use.
func enter32(uint32, uint32) int32 { return -int32(unix.ENOSYS) }

var native, compat []int
