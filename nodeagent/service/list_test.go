package service

import (
	"encoding/binary"
	"testing"

	"golang.org/x/sys/unix"
)

func attribute(kind uint16, value []byte) []byte {
	out := binary.NativeEndian.AppendUint16(nil, uint16(4+len(value)))
	out = append(binary.NativeEndian.AppendUint16(out, kind), value...)
	return append(out, make([]byte, -len(value)&3)...)
}

func message(e element, s set) []byte {
	item := attribute(unix.NFTA_SET_ELEM_KEY|unix.NLA_F_NESTED, attribute(unix.NFTA_DATA_VALUE, e.key[:s.keySize()]))
	item = append(item, attribute(unix.NFTA_SET_ELEM_DATA|unix.NLA_F_NESTED, attribute(unix.NFTA_DATA_VALUE, e.value.encode()))...)
	list := attribute(unix.NFTA_LIST_ELEM|unix.NLA_F_NESTED, item)
	return append([]byte{unix.AF_INET, 0, 0, 0}, attribute(unix.NFTA_SET_ELEM_LIST_ELEMENTS|unix.NLA_F_NESTED, append(list, list...))...)
}

// What the kernel says is read whole or not at all.
func FuzzParse(f *testing.F) {
	want := element{key: slotKey(key{ip: four(10, 96, 0, 1), protocol: 6, port: 80}, 59), value: backend{ip: four(10, 62, 0, 9), port: 8080}}
	good := message(want, slots)
	n := 0
	if err := parse(good, slots, func(e element) {
		if n++; e != want {
			f.Errorf("got %v, want %v", e, want)
		}
	}); err != nil || n != 2 {
		f.Errorf("%d elements, %v", n, err)
	}
	f.Add(good)
	f.Add(good[:len(good)-5])
	f.Add([]byte{})
	f.Fuzz(func(_ *testing.T, b []byte) {
		for s := range sets {
			_ = parse(b, s, func(element) {})
		}
	})
}
