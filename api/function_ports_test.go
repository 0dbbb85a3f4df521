package api

import (
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestFunctionPorts(t *testing.T) {
	const tcp, udp, sctp = corev1.ProtocolTCP, corev1.ProtocolUDP, corev1.ProtocolSCTP
	for _, c := range []struct {
		text  string
		want  []MachinePort
		fault string
	}{
		{"", nil, ""},
		{" , ", nil, ""},
		{"5432", []MachinePort{{tcp, 5432}}, ""},
		{"6379/tcp, 53/UDP,5432/tcp,53/tcp,3868/sctp,5432", []MachinePort{{tcp, 53}, {udp, 53}, {sctp, 3868}, {tcp, 5432}, {tcp, 6379}}, ""},
		{"0/tcp", nil, "from 1 to 65535"},
		{"65536", nil, "from 1 to 65535"},
		{"postgres/tcp", nil, "from 1 to 65535"},
		{"1-9/tcp", nil, "from 1 to 65535"},
		{"80/", nil, "tcp, udp or sctp"},
		{"80/icmp", nil, `"80/icmp": a protocol is tcp, udp or sctp`},
	} {
		n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Annotations: map[string]string{AnnotationFunctionPorts: c.text}}}
		got, err := FunctionPorts(n)
		if !slices.Equal(got, c.want) {
			t.Errorf("%q: got %v, want %v", c.text, got, c.want)
		}
		if (err == nil) != (c.fault == "") || err != nil && !strings.Contains(err.Error(), c.fault) {
			t.Errorf("%q: got error %v, want %q", c.text, err, c.fault)
		}
	}
}
