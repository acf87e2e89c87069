# The machine image of Pilotlight's instances: Debian with containerd, runc, CNI plugins, the agent, and images pulled
# beforehand. See README.md beside this file.
#
#   scripts/ami/collect && packer init scripts/ami && packer build -var region=us-east-1 scripts/ami

packer {
  required_plugins {
    amazon = {
      source  = "github.com/hashicorp/amazon"
      version = ">= 1.3.0"
    }
  }
}

variable "region" {
  type    = string
  default = "us-east-1"
}

variable "payload" {
  type        = string
  description = "What scripts/ami/collect made."
  default     = "target/ami/payload"
}

variable "images" {
  type        = list(string)
  description = "Images to pull beforehand, as containerd names them: docker.io/library/nginx:1.29"
  default     = []
}

variable "builder_type" {
  type    = string
  default = "c6i.large"
}

locals {
  stamp = formatdate("YYYYMMDD-hhmmss", timestamp())
}

source "amazon-ebs" "pilotlight" {
  region        = var.region
  instance_type = var.builder_type
  ssh_username  = "admin"
  ami_name      = "pilotlight-amd64-${local.stamp}"

  source_ami_filter {
    # Debian's own account.
    owners      = ["136693071363"]
    most_recent = true
    filters = {
      name                = "debian-12-amd64-*"
      architecture        = "x86_64"
      root-device-type    = "ebs"
      virtualization-type = "hvm"
    }
  }

  # Also of the instances that are made of it: no credentials without a token.
  imds_support = "v2.0"
  metadata_options {
    http_endpoint               = "enabled"
    http_tokens                 = "required"
    http_put_response_hop_limit = 1
  }

  launch_block_device_mappings {
    device_name           = "/dev/xvda"
    volume_type           = "gp3"
    volume_size           = 8
    delete_on_termination = true
  }

  tags = {
    Name       = "pilotlight-amd64-${local.stamp}"
    pilotlight = "image"
  }
}

build {
  sources = ["source.amazon-ebs.pilotlight"]

  provisioner "file" {
    source      = "${var.payload}/"
    destination = "/tmp/payload"
  }

  provisioner "shell" {
    script          = "${path.root}/provision"
    execute_command = "sudo env {{ .Vars }} bash '{{ .Path }}'"
    environment_vars = [
      "PAYLOAD=/tmp/payload",
      "PULL=${join(" ", var.images)}",
    ]
  }

  # A machine that was never booted: cloud-init runs anew, and no key or name of the builder's stays.
  provisioner "shell" {
    inline = [
      "sudo rm -rf /tmp/payload",
      "sudo cloud-init clean --logs --machine-id",
      "sudo rm -f /etc/ssh/ssh_host_* /root/.ssh/authorized_keys /home/admin/.ssh/authorized_keys",
    ]
  }
}
