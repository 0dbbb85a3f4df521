package rules

import (
	"maps"
	"slices"

	"github.com/podsnap/podsnap/api"
	"google.golang.org/protobuf/encoding/protowire"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// functionMessage is the protobuf form in which a Function is stored. The numbers of
// its fields, below, are what is in etcd: a number is never used for something else,
// and a new field gets the next.
//
//	Function            1 metadata, 2 spec, 3 status
//	FunctionSpec        1 name, 2 image, 3 handler, 4 process, 5 annotations, 6 labels,
//	                    7 environment, 8 constraints, 9 secrets, 10 limits, 11 requests,
//	                    12 readOnlyRootFilesystem
//	FunctionResources   1 memory, 2 cpu
//	FunctionStatus      1 replicas, 2 availableReplicas, 3 unavailableReplicas,
//	                    4 observedGeneration, 5 conditions, 6 restarts, 7 lastTermination
//	FunctionTermination 1 pod, 2 reason, 3 exitCode, 4 time
//
// Maps are lists of entries with a key, 1, and a value, 2, in the order of their keys.
// What is empty is left out, but in lists and maps.
type functionMessage struct{ f *api.Function }

// Marshal is the message.
func (m functionMessage) Marshal() ([]byte, error) {
	meta, err := m.f.ObjectMeta.Marshal()
	if err != nil {
		return nil, err
	}
	status, err := m.status()
	if err != nil {
		return nil, err
	}
	var w writer
	w.bytes(1, meta)
	w.bytes(2, m.spec())
	w.bytes(3, status)
	return w, nil
}

func (m functionMessage) spec() []byte {
	s := &m.f.Spec
	var w writer
	w.text(1, s.Name)
	w.text(2, s.Image)
	w.text(3, s.Handler)
	w.text(4, s.Process)
	w.pairs(5, s.Annotations)
	w.pairs(6, s.Labels)
	w.pairs(7, s.Environment)
	w.texts(8, s.Constraints)
	w.texts(9, s.Secrets)
	w.resources(10, s.Limits)
	w.resources(11, s.Requests)
	if s.ReadOnlyRootFilesystem {
		w.number(12, 1)
	}
	return w
}

func (m functionMessage) status() ([]byte, error) {
	s := &m.f.Status
	var w writer
	w.number(1, int64(s.Replicas))
	w.number(2, int64(s.AvailableReplicas))
	w.number(3, int64(s.UnavailableReplicas))
	w.number(4, s.ObservedGeneration)
	for i := range s.Conditions {
		c, err := s.Conditions[i].Marshal()
		if err != nil {
			return nil, err
		}
		w.bytes(5, c)
	}
	w.number(6, int64(s.Restarts))
	if t := s.LastTermination; t != nil {
		at, err := t.Time.Marshal()
		if err != nil {
			return nil, err
		}
		var in writer
		in.text(1, t.Pod)
		in.text(2, t.Reason)
		in.number(3, int64(t.ExitCode))
		in.bytes(4, at)
		w.bytes(7, in)
	}
	return w, nil
}

// Unmarshal reads the message into the function, which is empty.
func (m functionMessage) Unmarshal(data []byte) error {
	return fields(data, func(n protowire.Number, v []byte, _ int64) error {
		switch n {
		case 1:
			return m.f.ObjectMeta.Unmarshal(v)
		case 2:
			return readSpec(v, &m.f.Spec)
		case 3:
			return readStatus(v, &m.f.Status)
		default: // a field of a later version
		}
		return nil
	})
}

func readSpec(data []byte, s *api.FunctionSpec) error {
	return fields(data, func(n protowire.Number, v []byte, x int64) error {
		switch n {
		case 1:
			s.Name = string(v)
		case 2:
			s.Image = string(v)
		case 3:
			s.Handler = string(v)
		case 4:
			s.Process = string(v)
		case 5:
			return readPair(v, &s.Annotations)
		case 6:
			return readPair(v, &s.Labels)
		case 7:
			return readPair(v, &s.Environment)
		case 8:
			s.Constraints = append(s.Constraints, string(v))
		case 9:
			s.Secrets = append(s.Secrets, string(v))
		case 10:
			return readResources(v, &s.Limits)
		case 11:
			return readResources(v, &s.Requests)
		case 12:
			s.ReadOnlyRootFilesystem = x != 0
		default: // a field of a later version
		}
		return nil
	})
}

func readResources(data []byte, r **api.FunctionResources) error {
	out := &api.FunctionResources{}
	*r = out
	return fields(data, func(n protowire.Number, v []byte, _ int64) error {
		switch n {
		case 1:
			out.Memory = string(v)
		case 2:
			out.CPU = string(v)
		default: // a field of a later version
		}
		return nil
	})
}

func readStatus(data []byte, s *api.FunctionStatus) error {
	return fields(data, func(n protowire.Number, v []byte, x int64) error {
		switch n {
		case 1:
			s.Replicas = int32(x) //nolint:gosec // it was one when it was written
		case 2:
			s.AvailableReplicas = int32(x) //nolint:gosec // so was this
		case 3:
			s.UnavailableReplicas = int32(x) //nolint:gosec // and this
		case 4:
			s.ObservedGeneration = x
		case 5:
			var c metav1.Condition
			if err := c.Unmarshal(v); err != nil {
				return err
			}
			s.Conditions = append(s.Conditions, c)
		case 6:
			s.Restarts = int32(x) //nolint:gosec // and this
		case 7:
			s.LastTermination = &api.FunctionTermination{}
			return readTermination(v, s.LastTermination)
		default: // of a later version
		}
		return nil
	})
}

func readTermination(data []byte, t *api.FunctionTermination) error {
	return fields(data, func(n protowire.Number, v []byte, x int64) error {
		switch n {
		case 1:
			t.Pod = string(v)
		case 2:
			t.Reason = string(v)
		case 3:
			t.ExitCode = int32(x) //nolint:gosec // it was one when it was written
		case 4:
			return t.Time.Unmarshal(v)
		default: // of a later version
		}
		return nil
	})
}

func readPair(data []byte, m *map[string]string) error {
	var key, value string
	err := fields(data, func(n protowire.Number, v []byte, _ int64) error {
		switch n {
		case 1:
			key = string(v)
		case 2:
			value = string(v)
		default: // of a later version
		}
		return nil
	})
	if *m == nil {
		*m = map[string]string{}
	}
	(*m)[key] = value
	return err
}

// writer is a message that is being written.
type writer []byte

func (w *writer) bytes(n protowire.Number, v []byte) {
	*w = protowire.AppendBytes(protowire.AppendTag(*w, n, protowire.BytesType), v)
}

func (w *writer) text(n protowire.Number, s string) {
	if s != "" {
		*w = protowire.AppendString(protowire.AppendTag(*w, n, protowire.BytesType), s)
	}
}

func (w *writer) texts(n protowire.Number, all []string) {
	for _, s := range all {
		*w = protowire.AppendString(protowire.AppendTag(*w, n, protowire.BytesType), s)
	}
}

func (w *writer) pairs(n protowire.Number, m map[string]string) {
	for _, k := range slices.Sorted(maps.Keys(m)) {
		var pair writer
		pair.text(1, k)
		pair.text(2, m[k])
		w.bytes(n, pair)
	}
}

func (w *writer) resources(n protowire.Number, r *api.FunctionResources) {
	if r == nil {
		return
	}
	var in writer
	in.text(1, r.Memory)
	in.text(2, r.CPU)
	w.bytes(n, in)
}

func (w *writer) number(n protowire.Number, v int64) {
	if v != 0 {
		*w = protowire.AppendVarint(protowire.AppendTag(*w, n, protowire.VarintType), uint64(v)) //nolint:gosec // two's complement, as protobuf has it
	}
}
