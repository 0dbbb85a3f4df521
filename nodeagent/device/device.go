// Package device says which devices a container may use, and closes the others
// to a version 2 control group. Version 1 has a controller with files for that;
// in version 2 it is a program in the kernel that is attached to the group and
// asked at every open and mknod of a device.
package device

import "strconv"

// Any stands for every number.
const Any = -1

// Rule allows some uses of some devices. What no rule allows is forbidden.
type Rule struct {
	Kind         byte   // 'c' or 'b'
	Major, Minor int64  // Any is all
	Access       string // of 'r', 'w' and 'm' (mknod); one rule has to allow all that is asked for at once
}

// Default is what every container may do, as runc's own list has it but for tun,
// which needs a right that containers here do not have: all devices may be made,
// few be used.
func Default() []Rule {
	return []Rule{
		{'c', Any, Any, "m"},
		{'b', Any, Any, "m"},
		{'c', 1, 3, "rwm"},     // null
		{'c', 1, 5, "rwm"},     // zero
		{'c', 1, 7, "rwm"},     // full
		{'c', 1, 8, "rwm"},     // random
		{'c', 1, 9, "rwm"},     // urandom
		{'c', 5, 0, "rwm"},     // tty
		{'c', 5, 2, "rwm"},     // ptmx
		{'c', 136, Any, "rwm"}, // pts
	}
}

// String is the rule as version 1's devices.allow takes it.
func (r Rule) String() string {
	number := func(n int64) string {
		if n == Any {
			return "*"
		}
		return strconv.FormatInt(n, 10)
	}
	return string(r.Kind) + " " + number(r.Major) + ":" + number(r.Minor) + " " + r.Access
}
