package main

// enter32 makes a system call by the 32-bit entry (int 0x80) with six equal
// arguments and answers with the kernel's result, negative for an error.
//
//go:noescape
func enter32(nr, arg uint32) int32

// Numbers that are not called: those that wait for ever or leave two processes
// where one was (fork, vfork, pause), that take their time (sync), that leave
// something behind (msgget).
var (
	native = []int{34, 57, 58, 68, 162}
	compat = []int{2, 29, 36, 72, 190, 399}
)
