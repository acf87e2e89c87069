package main

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"flag"
	"log"
	"slices"
	"strings"
	"time"

	certificates "k8s.io/api/certificates/v1"
	core "k8s.io/api/core/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
)

// approve does what a cloud's controller does in a real cluster: it approves
// requests for kubelets' serving certificates. Kubernetes' own controllers
// sign these once approved, but never approve them.
func approve(args []string) error {
	flags := flag.NewFlagSet("approve", flag.ExitOnError)
	kubeconfig := flags.String("kubeconfig", "", "kubeconfig of the approver")
	user := flags.String("user", "pilotlight", "user who may ask for any node's certificate, besides the node itself")
	if err := flags.Parse(args); err != nil {
		return err
	}
	config, err := clientcmd.BuildConfigFromFlags("", *kubeconfig)
	if err != nil {
		return err
	}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return err
	}
	requests := client.CertificatesV1().CertificateSigningRequests()
	ctx := context.Background()
	for ; ; time.Sleep(time.Second) {
		// A watch without a resource version begins with all that exist.
		watch, err := requests.Watch(ctx, meta.ListOptions{
			FieldSelector: "spec.signerName=" + certificates.KubeletServingSignerName,
		})
		if err != nil {
			log.Print(err)
			continue
		}
		for event := range watch.ResultChan() {
			csr, ok := event.Object.(*certificates.CertificateSigningRequest)
			if !ok || len(csr.Status.Conditions) > 0 || event.Type == "DELETED" {
				continue
			}
			if err := check(csr, *user); err != nil {
				log.Printf("%s of %s: left alone: %v", csr.Name, csr.Spec.Username, err)
				continue
			}
			csr.Status.Conditions = append(csr.Status.Conditions, certificates.CertificateSigningRequestCondition{
				Type:    certificates.CertificateApproved,
				Status:  core.ConditionTrue,
				Reason:  "TestCluster",
				Message: "approved by the test cluster",
			})
			if _, err := requests.UpdateApproval(ctx, csr.Name, csr, meta.UpdateOptions{}); err != nil {
				log.Printf("%s: %v", csr.Name, err)
				continue
			}
			log.Printf("%s of %s: approved", csr.Name, csr.Spec.Username)
		}
	}
}

func check(csr *certificates.CertificateSigningRequest, user string) error {
	block, _ := pem.Decode(csr.Spec.Request)
	if block == nil {
		return errors.New("not PEM")
	}
	request, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		return err
	}
	name := request.Subject.CommonName
	if !strings.HasPrefix(name, "system:node:") || !slices.Equal(request.Subject.Organization, []string{"system:nodes"}) {
		return errors.New("not a node's name and group")
	}
	if csr.Spec.Username != name && csr.Spec.Username != user {
		return errors.New("asked for by another user")
	}
	return nil
}
