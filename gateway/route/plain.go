package route

import (
	"bytes"

	"github.com/podsnap/podsnap/api"
	"k8s.io/apimachinery/pkg/types"
)

// Plain is a target whose text says all: nothing in it is escaped.
type Plain struct {
	Function types.NamespacedName
	Target   []byte // path below the function, and query
}

// ParsePlain reads a request's target, `<prefix><name>[.<namespace>][/path][?query]`,
// if nobody can read it in another way than Parse does; prefix ends with a
// slash. buf is where the Target goes if it does not lie in target.
func ParsePlain(target []byte, prefix string, buf []byte) (p Plain, ok bool) {
	if len(target) <= len(prefix) || string(target[:len(prefix)]) != prefix {
		return p, false
	}
	path, query := target[len(prefix):], []byte(nil)
	if i := bytes.IndexByte(path, '?'); i >= 0 {
		path, query = path[:i], path[i:]
	}
	for _, c := range query {
		if c <= ' ' || c >= 0x7f || c == '#' {
			return p, false
		}
	}
	name, below := path, []byte(nil)
	if i := bytes.IndexByte(path, '/'); i >= 0 {
		name, below = path[:i], path[i:]
	}
	dot := -1
	for i, c := range name {
		if !nameByte(c) {
			return p, false
		}
		if c == '.' {
			dot = i
		}
	}
	for i, c := range below {
		if !nameByte(c) && bytes.IndexByte([]byte("/~$&+,:;=@!'()*"), c) < 0 {
			return p, false
		}
		if c == '.' && below[i-1] == '/' {
			return p, false // perhaps a dot segment
		}
	}
	p.Function = types.NamespacedName{Namespace: api.FunctionNamespace, Name: string(name)}
	if dot >= 0 {
		p.Function.Name, p.Function.Namespace = p.Function.Name[:dot], p.Function.Name[dot+1:]
	}
	if p.Function.Name == "" || p.Function.Namespace == "" || p.Function.Name == "." {
		return p, false
	}
	if len(below) > 0 {
		p.Target = target[len(target)-len(below)-len(query):]
		return p, true
	}
	p.Target = append(append(buf[:0], '/'), query...)
	return p, true
}
