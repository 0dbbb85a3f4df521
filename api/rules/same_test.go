package rules

import (
	"fmt"
	"reflect"
	"testing"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// variants are values of a type that differ from one another in one field each,
// and the empty one; whatever is below the type has been filled.
func variants(t reflect.Type) (out []reflect.Value) {
	at := time.Unix(1_700_000_000, 0)
	switch t {
	case reflect.TypeFor[metav1.Time]():
		return []reflect.Value{reflect.ValueOf(metav1.NewTime(at)), reflect.ValueOf(metav1.NewTime(at.Add(time.Second)))}
	case reflect.TypeFor[metav1.MicroTime]():
		return []reflect.Value{reflect.ValueOf(metav1.NewMicroTime(at)), reflect.ValueOf(metav1.NewMicroTime(at.Add(time.Microsecond)))}
	}
	switch t.Kind() {
	case reflect.Struct:
		out = append(out, reflect.Zero(t))
		for i := range t.NumField() {
			for _, v := range variants(t.Field(i).Type) {
				s := reflect.New(t).Elem()
				s.Field(i).Set(v)
				out = append(out, s)
			}
		}
	case reflect.Pointer:
		for _, v := range variants(t.Elem()) {
			p := reflect.New(t.Elem())
			p.Elem().Set(v)
			out = append(out, p)
		}
	case reflect.Slice:
		out = append(out, reflect.MakeSlice(t, 0, 0)) // which is as none
		for _, v := range variants(t.Elem()) {
			out = append(out, reflect.Append(reflect.Zero(t), v))
		}
	case reflect.Map:
		out = append(out, reflect.MakeMap(t))
		for _, v := range variants(t.Elem()) {
			m := reflect.MakeMap(t)
			m.SetMapIndex(reflect.ValueOf("k"), v)
			out = append(out, m)
		}
	case reflect.String:
		out = append(out, reflect.ValueOf("a").Convert(t), reflect.ValueOf("b").Convert(t))
	case reflect.Bool:
		out = append(out, reflect.ValueOf(true), reflect.ValueOf(false))
	case reflect.Int32, reflect.Int64:
		out = append(out, reflect.ValueOf(1).Convert(t), reflect.ValueOf(2).Convert(t))
	case reflect.Uint8:
		out = append(out, reflect.ValueOf(uint8(1)), reflect.ValueOf(uint8(2)))
	default:
		panic(fmt.Sprintf("no variants of %s: the type has got a field of another kind", t))
	}
	return out
}

// Every field counts, and counts as it does semantically.
func TestSame(t *testing.T) {
	for name, tt := range map[string]struct {
		of   reflect.Type
		same func(a, b any) bool
	}{
		"metadata": {reflect.TypeFor[metav1.ObjectMeta](), func(a, b any) bool {
			return sameMeta(&coordinationv1.Lease{ObjectMeta: a.(metav1.ObjectMeta)}, &coordinationv1.Lease{ObjectMeta: b.(metav1.ObjectMeta)})
		}},
		"lease": {reflect.TypeFor[coordinationv1.LeaseSpec](), func(a, b any) bool {
			x, y := a.(coordinationv1.LeaseSpec), b.(coordinationv1.LeaseSpec)
			return SameLease(&x, &y)
		}},
	} {
		t.Run(name, func(t *testing.T) {
			all := variants(tt.of)
			differ := 0
			for _, a := range all {
				for _, b := range variants(tt.of) { // equal ones, at other addresses
					want := equality.Semantic.DeepEqual(a.Interface(), b.Interface())
					if !want {
						differ++
					}
					if got := tt.same(a.Interface(), b.Interface()); got != want {
						t.Errorf("same is %v, want %v:\n%+v\n%+v", got, want, a, b)
					}
				}
			}
			if differ < len(all) {
				t.Errorf("only %d of %d pairs differ", differ, len(all)*len(all))
			}
		})
	}
}
