package rules

import (
	"reflect"

	"github.com/podsnap/podsnap/api"
)

// The kinds all have the shape {TypeMeta, ObjectMeta, …, Status}, which is
// what these functions rely on; a test goes through all of them.

// shallow is a copy of obj that shares everything below the top level.
func shallow(obj api.Object) api.Object {
	v := reflect.ValueOf(obj).Elem()
	c := reflect.New(v.Type())
	c.Elem().Set(v)
	return c.Interface().(api.Object)
}

// WithRevision is a shallow copy of obj with another resourceVersion. It
// shares everything else with obj, so both have to be immutable.
func WithRevision(obj api.Object, rv string) api.Object {
	c := shallow(obj)
	c.SetResourceVersion(rv)
	return c
}

func clearStatus(obj api.Object) {
	if s := reflect.ValueOf(obj).Elem().FieldByName("Status"); s.IsValid() {
		s.SetZero()
	}
}

// copyField makes dst's field the same as src's; both are of one kind.
func copyField(dst, src api.Object, name string) {
	d := reflect.ValueOf(dst).Elem().FieldByName(name)
	if d.IsValid() {
		d.Set(reflect.ValueOf(src).Elem().FieldByName(name))
	}
}

// value is the field of obj, nil when the kind has none of that name.
func value(obj api.Object, name string) any {
	f := reflect.ValueOf(obj).Elem().FieldByName(name)
	if !f.IsValid() {
		return nil
	}
	return f.Addr().Interface()
}
