package rules

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/podsnap/podsnap/api"
	"google.golang.org/protobuf/encoding/protowire"
	appsv1 "k8s.io/api/apps/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// Protobuf is stored in the envelope in which Kubernetes stores it: four bytes that
// no JSON begins with, and a message runtime.Unknown.
const (
	magic = "k8s\x00"

	envelopeType     protowire.Number = 1 // a message: apiVersion is its first field, kind its second
	envelopeRaw      protowire.Number = 2 // the object
	envelopeEncoding protowire.Number = 3 // of the object, such as gzip; none is known
	envelopeMark     protowire.Number = 1000
)

// markField is the field of a JSON object that holds a write's mark.
const markField = "@write"

// roomForMark is what a mark adds to an encoding, about.
const roomForMark = 40

// message is an object in protobuf.
type message interface {
	Marshal() ([]byte, error)
	Unmarshal(data []byte) error
}

// sized is one that can be written into the envelope without a copy.
type sized interface {
	message
	runtime.ProtobufMarshaller
}

// messageOf is obj's protobuf form; nil when its kind has none.
func messageOf(obj api.Object) message {
	if f, ok := obj.(*api.Function); ok {
		return functionMessage{f}
	}
	m, _ := obj.(message)
	return m
}

// Encode is the stored form of obj, without a resourceVersion: protobuf, and JSON of
// the kinds that have none.
func Encode(obj api.Object) ([]byte, error) {
	if obj.GetResourceVersion() != "" {
		obj = WithRevision(obj, "")
	}
	data, err := encode(obj)
	if err != nil {
		return nil, fmt.Errorf("encode %s %s: %w", api.ResourceOf(obj), obj.GetName(), err)
	}
	return data, nil
}

func encode(obj api.Object) ([]byte, error) {
	u := runtime.Unknown{}
	u.APIVersion, u.Kind = api.ResourceOf(obj).GVK().ToAPIVersionAndKind()
	switch m := messageOf(obj).(type) {
	case nil:
		return json.Marshal(obj)
	case sized:
		return envelope(&u, m, m.Size())
	default:
		var err error
		if u.Raw, err = m.Marshal(); err != nil {
			return nil, err
		}
		return envelope(&u, nil, 0)
	}
}

// envelope is u, with m in the place of its raw object unless m is nil.
func envelope(u *runtime.Unknown, m runtime.ProtobufMarshaller, size int) ([]byte, error) {
	most := len(magic) + u.Size() + size + 1 + protowire.SizeVarint(uint64(size)) //nolint:gosec // a size is not negative
	data := append(make([]byte, 0, most+roomForMark), magic...)
	if m == nil {
		n, err := u.MarshalTo(data[len(magic):most])
		return data[:len(magic)+n], err
	}
	n, err := u.NestedMarshalTo(data[len(magic):most], m, uint64(size)) //nolint:gosec // as above
	return data[:len(magic)+n], err
}

// Mark adds to a stored form what decoding passes over: it tells one write from
// another of the same object. It may take value's memory.
func Mark(value []byte, mark string) []byte {
	if bytes.HasPrefix(value, []byte(magic)) {
		value = protowire.AppendTag(value, envelopeMark, protowire.BytesType)
		return protowire.AppendString(value, mark)
	}
	value = append(value[:len(value)-1], `,"`+markField+`":"`...)
	value = append(value, mark...)
	return append(value, `"}`...)
}

// Restore reads a stored form, the JSON of builds that knew no other too. Fields
// that it does not know are dropped. The object has its apiVersion and kind set.
func Restore(r *api.Resource, data []byte) (api.Object, error) {
	rest, ok := bytes.CutPrefix(data, []byte(magic))
	if !ok {
		obj, err := Decode(r, data)
		if c, ok := obj.(*api.CustomObject); ok {
			delete(c.Content, markField)
		}
		return obj, err
	}
	obj, err := restore(r, rest)
	if err != nil {
		return nil, fmt.Errorf("what is stored is no %s of %s: %w", r.Kind, r.GVK().GroupVersion(), err)
	}
	return obj, nil
}

func restore(r *api.Resource, data []byte) (api.Object, error) {
	raw, kind, err := unwrap(data)
	if err != nil {
		return nil, fmt.Errorf("envelope: %w", err)
	}
	obj := r.New()
	m := messageOf(obj)
	switch {
	case kind != r.GVK():
		return nil, fmt.Errorf("it is a %s of %s", kind.Kind, kind.GroupVersion())
	case m == nil:
		return nil, errors.New("the kind has no protobuf form")
	}
	if err := m.Unmarshal(raw); err != nil {
		return nil, err
	}
	obj.GetObjectKind().SetGroupVersionKind(kind)
	if s, ok := obj.(*appsv1.StatefulSet); ok { // of types within an object protobuf says nothing
		for i := range s.Spec.VolumeClaimTemplates {
			s.Spec.VolumeClaimTemplates[i].TypeMeta = metav1.TypeMeta{APIVersion: "v1", Kind: api.PersistentVolumeClaims.Kind}
		}
	}
	return obj, nil
}

// unwrap finds the object in its envelope, without a copy, and what it is.
func unwrap(data []byte) (raw []byte, kind schema.GroupVersionKind, err error) {
	err = fields(data, func(n protowire.Number, value []byte, _ int64) error {
		switch n {
		case envelopeType:
			kind, err = typeOf(value)
			return err
		case envelopeRaw:
			raw = value
		case envelopeEncoding:
			if len(value) > 0 {
				return fmt.Errorf("the content encoding %q is not known", value)
			}
		default: // the content type, which says nothing that the key does not
		}
		return nil
	})
	return raw, kind, err
}

func typeOf(data []byte) (schema.GroupVersionKind, error) {
	var apiVersion, kind string
	err := fields(data, func(n protowire.Number, value []byte, _ int64) error {
		switch n {
		case 1:
			apiVersion = string(value)
		case 2:
			kind = string(value)
		default: // there is nothing else
		}
		return nil
	})
	return schema.FromAPIVersionAndKind(apiVersion, kind), err
}

// fields calls f with each field of a message, which is bytes or a number; of other
// types it has neither.
func fields(data []byte, f func(n protowire.Number, value []byte, number int64) error) error {
	for len(data) > 0 {
		n, t, size := protowire.ConsumeTag(data)
		if size < 0 {
			return protowire.ParseError(size)
		}
		data = data[size:]
		var value []byte
		var number uint64
		switch t {
		case protowire.BytesType:
			value, size = protowire.ConsumeBytes(data)
		case protowire.VarintType:
			number, size = protowire.ConsumeVarint(data)
		default:
			size = protowire.ConsumeFieldValue(n, t, data)
		}
		if size < 0 {
			return protowire.ParseError(size)
		}
		if err := f(n, value, int64(number)); err != nil { //nolint:gosec // two's complement, as protobuf has it
			return err
		}
		data = data[size:]
	}
	return nil
}
